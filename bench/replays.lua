-- The same requests again and again: as many different ones as the last argument says.

package.path = debug.getinfo(1, "S").source:match("@(.*/)") .. "?.lua;" .. package.path
local common = require("common")
local requests = {}
local n = 0

function init(args)
  local sender = common.read_senders(args[3])[1]
  local head, after, middle, ending = common.request_pieces(args[1], sender, common.uuid_rest(args[2]))
  for i = 1, tonumber(args[4]) do
    local id = common.scattered(i)
    requests[i] = head .. id .. after .. id .. middle .. id .. ending
  end
end

function request()
  n = n + 1
  return requests[n % #requests + 1]
end
