-- Batches of as many events as the last argument says, each event with an event_id of its own.

package.path = debug.getinfo(1, "S").source:match("@(.*/)") .. "?.lua;" .. package.path
local common = require("common")
local parts = {}
local size
local n = 0

-- Everything but the ids stays the same: they stand at 2, 4 (first event), 6, 8 (second) and so on.
function init(args)
  size = tonumber(args[4])
  local sender = common.read_senders(args[3])[1]
  local opening, middle, ending = common.event_pieces(sender.source, common.uuid_rest(args[2]))
  local length = #'{"events":[' + size * (#opening + 8 + #middle + 8 + #ending) + (size - 1) + #']}'
  parts[1] = common.head(args[1], sender.key, length) .. '\r\n{"events":[' .. opening
  for i = 1, size do
    parts[4 * i - 1] = middle
    parts[4 * i + 1] = i < size and ending .. "," .. opening or ending .. "]}"
  end
end

function request()
  for i = 1, size do
    n = n + 1
    local id = common.scattered(n)
    parts[4 * i - 2] = id
    parts[4 * i] = id
  end
  return table.concat(parts)
end
