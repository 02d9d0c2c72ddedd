-- wrk ... -s requests.lua URL -- TOKENS COUNT CREDENTIAL
-- Sends the first COUNT tokens of the file TOKENS in turn, or no token if COUNT is 0, and prints one line that benches/machine.py reads.
-- CREDENTIAL is how: `bearer`; `cookie`, among nine others, as browsers send it; `proxy`: the same cookie, with the header fields with
-- which nginx asks about a request.

local cookies = "_ga=GA1.1.1234567890.1700000000; theme=dark; locale=en-GB; consent=necessary; cart=3f2b8c; "
local more_cookies = "; seen=1; ab_test=b; last_visit=1700000000; tz=Europe%2FBerlin"

local function set_credential(kind, token)
  if kind == "bearer" then
    wrk.headers["Authorization"] = token and "Bearer " .. token
    return
  end
  wrk.headers["Cookie"] = token and cookies .. "hanko=" .. token .. more_cookies
  if kind == "proxy" then
    wrk.headers["X-Original-Method"] = "GET"
    wrk.headers["X-Original-URI"] = "/articles/7?page=2"
    wrk.headers["X-Forwarded-For"] = "127.0.0.1"
    wrk.headers["X-Forwarded-Proto"] = "https"
    wrk.headers["X-Forwarded-Host"] = "app.example"
  end
end

function init(args)
  local count = tonumber(args[2])
  local requests = {}
  for token in io.lines(args[1]) do
    if #requests == count then break end
    set_credential(args[3], token)
    requests[#requests + 1] = wrk.format("GET")
  end
  if count == 0 then set_credential(args[3], nil) end
  -- With a single request, wrk sends it without calling Lua each time.
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
