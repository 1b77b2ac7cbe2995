-- Single events, each with an Idempotency-Key and an event_id of its own, by each sender in turn.
-- With a number as the last argument it ends after one round through the senders, and says how long that took.

package.path = debug.getinfo(1, "S").source:match("@(.*/)") .. "?.lua;" .. package.path
local common = require("common")
local heads, afters, middles, endings = {}, {}, {}, {}
local count, once, begin
-- wrk itself asks for one request beforehand, which it does not send.
local n = -1

function init(args)
  local rest = common.uuid_rest(args[2])
  local senders = common.read_senders(args[3])
  once = args[4] == "once"
  count = #senders
  for i, sender in ipairs(senders) do
    heads[i], afters[i], middles[i], endings[i] = common.request_pieces(args[1], sender, rest)
  end
end

function request()
  n = n + 1
  if once and n <= count + 1 then
    if n == 1 then
      begin = common.now()
    elseif n == count + 1 then
      round_seconds = common.now() - begin
      common.finish()
    end
  end
  local i = (n - 1) % count + 1
  local id = common.scattered(n)
  return heads[i] .. id .. afters[i] .. id .. middles[i] .. id .. endings[i]
end
