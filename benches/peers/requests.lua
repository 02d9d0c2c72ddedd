-- wrk ... -s requests.lua URL -- TOKENS COUNT
-- Sends the first COUNT tokens of the file TOKENS in turn, or none at all, and prints one line for the program.

function init(args)
  local count = tonumber(args[2])
  local requests = {}
  for token in io.lines(args[1]) do
    if #requests == count then break end
    wrk.headers["Authorization"] = "Bearer " .. token
    requests[#requests + 1] = wrk.format("GET")
  end
  if count == 0 then wrk.headers["Authorization"] = nil end
  -- Where there is but one request, wrk sends it without asking Lua each time.
  if count > 1 then
    local turn = 0
    request = function()
      turn = turn % #requests + 1
      return requests[turn]
    end
  end
end

function done(summary)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
