-- As events.lua, but at the rate (requests a second) of the last argument, however fast the answers come.
-- wrk has no option for that. Each free connection takes the next moment of a fixed timetable and sleeps until then; a
-- moment that has passed is made up for at once. wrk sleeps whole milliseconds: what falls into one leaves together.

local here = debug.getinfo(1, "S").source:match("@(.*/)")
package.path = here .. "?.lua;" .. package.path
local common = require("common")
dofile(here .. "events.lua")
local init_events = init
local rate, begin
local moments = 0

function init(args)
  rate = tonumber(args[4])
  init_events(args)
end

function delay()
  local now = common.now()
  begin = begin or now
  moments = moments + 1
  return math.max(0, math.floor((begin + moments / rate - now) * 1000 + 0.5))
end
