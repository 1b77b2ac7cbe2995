-- What the load scripts share: ids, requests, the clock and the one line that bench/wrk.py reads.
-- Arguments after `--`: the path, 24 hex digits of this run, the file of senders (`key source_id` a line), a number.

local bit = require("bit")
local ffi = require("ffi")
ffi.cdef([[
  typedef struct { long seconds; int microseconds; } bench_time;
  int gettimeofday(bench_time *now, void *zone);
  int getpid(void);
  int kill(int process, int signal);
]])

local common = {}
local time = ffi.new("bench_time")

function common.now()
  ffi.C.gettimeofday(time, nil)
  return tonumber(time.seconds) + tonumber(time.microseconds) / 1e6
end

-- wrk ends on SIGINT as at the end of its time, and still reports.
function common.finish()
  ffi.C.kill(ffi.C.getpid(), 2)
end

-- Eight hex digits, another eight for each n up to 2^29: an odd factor and a shift-xor are both bijections of 32 bits.
-- Neighbours lie far apart, as random ids do: counting up would spare the indexes what real clients do to them.
function common.scattered(n)
  local mixed = bit.tobit(n * 0x9E3779)
  return bit.tohex(bit.bxor(mixed, bit.rshift(mixed, 15)))
end

-- The rest of a UUID, which starts with eight digits of common.scattered().
function common.uuid_rest(run)
  return ("-%s-4%s-8%s-%s"):format(run:sub(1, 4), run:sub(5, 7), run:sub(8, 10), run:sub(11, 22))
end

function common.read_senders(file)
  local senders = {}
  for line in io.lines(file) do
    local key, source = line:match("^(%S+) (%S+)$")
    senders[#senders + 1] = { key = key, source = source }
  end
  return senders
end

-- An event of about 430 bytes of JSON in three pieces; the id goes between the first two and between the last two.
function common.event_pieces(source, rest)
  return '{"event_id":"evt_',
    rest .. '","event_type":"order.created","source_id":"' .. source .. '","environment":"production",'
      .. '"severity":"info","timestamp":"2026-06-01T10:00:00Z","payload":{"order_id":"ord_',
    '","customer":"cus_48151623","currency":"EUR","amount":149.97,"items":['
      .. '{"sku":"sku-1001","quantity":1,"price":49.99},{"sku":"sku-2002","quantity":2,"price":49.99}],'
      .. '"shipping":{"country":"DE","city":"Berlin"}}}'
end

function common.head(path, key, length)
  return ("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-API-Key: %s\r\n"
    .. "Content-Length: %d\r\n"):format(path, key, length)
end

-- A request of one event in three pieces, with the id between them.
function common.request_pieces(path, sender, rest)
  local opening, middle, ending = common.event_pieces(sender.source, rest)
  local length = #opening + 8 + #middle + 8 + #ending
  local head = common.head(path, sender.key, length) .. "Idempotency-Key: "
  return head, rest .. "\r\n\r\n" .. opening, middle, ending
end

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function done(summary, latency)
  local errors = summary.errors
  print(("BENCH {\"seconds\":%.6f,\"requests\":%d,\"refused\":%d,\"timeouts\":%d,\"broken\":%d,"
    .. "\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,\"round_seconds\":%.6f}"):format(
    summary.duration / 1e6, summary.requests, errors.status, errors.timeout,
    errors.connect + errors.read + errors.write, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    latency.max / 1000, threads[1]:get("round_seconds") or 0))
end

return common
