-- For wrk: each request holds so many new events; all else in it was made beforehand.
-- Arguments: the file of the head, the file of an event's template, events a request, the run's 8 digits.

local DEVICES = 1000
local ID_MARK = "IIIIIIII-0000-4000-8000-IIIIIIIIIIII"
local DEVICE_MARK = "device-DDDDDD"

local head, before, between, after, count, run
local made = 0

local function text_of(path)
   local file = assert(io.open(path, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end

local function event()
   made = made + 1
   return before .. run .. string.format("-0000-4000-8000-%012x", made) .. between
      .. string.format("device-%06d", made % DEVICES) .. after
end

function init(args)
   head = text_of(args[1])
   local line = text_of(args[2])
   count = tonumber(args[3])
   run = args[4]
   local id = line:find(ID_MARK, 1, true)
   local device = line:find(DEVICE_MARK, 1, true)
   before = line:sub(1, id - 1)
   between = line:sub(id + #ID_MARK, device - 1)
   after = line:sub(device + #DEVICE_MARK)
end

function request()
   if count == 1 then
      return head .. event()
   end
   local lines = {}
   for number = 1, count do
      lines[number] = event()
   end
   return head .. table.concat(lines, "\n")
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests":%d,"wall_us":%d,"p50_us":%d,"p99_us":%d,"broken":%d,"refused":%d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect + errors.read + errors.write + errors.timeout, errors.status
   ))
end
