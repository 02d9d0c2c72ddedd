-- Sends POSTs and counts the responses that do not come from the service.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"token":"a.b.c","event":"user.update"}'

local threads = {}
lost = 0

function setup(thread)
  table.insert(threads, thread)
end

function response(status)
  -- The webhook is invalid, so the service responds with 401. nginx itself would respond with 502 or 504.
  if status ~= 401 then
    lost = lost + 1
  end
end

function done(summary)
  local total = 0
  for _, thread in ipairs(threads) do
    total = total + thread:get("lost")
  end
  local errors = summary.errors
  io.write(string.format("requests %d lost %d connect %d read %d write %d timeout %d\n", summary.requests, total,
    errors.connect, errors.read, errors.write, errors.timeout))
end
