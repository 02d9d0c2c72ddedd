import assert from "node:assert/strict";
import { api, cookie, run, token, unverified } from "./checks.js";
import {
  Configuration,
  GreetingApi,
  type Problem,
  ProblemFromJSON,
  ResponseError,
  SessionApi,
} from "./openapi-generator/index.js";

const anonymous = new Configuration({ basePath: api });
const bearer = new Configuration({ basePath: api, accessToken: token });
// The generator writes no code for a cookie: a browser sends it automatically with `credentials: "include"`.
const withCookie = new Configuration({ basePath: api, headers: { Cookie: cookie } });

async function problemOf(call: Promise<unknown>, status = 401): Promise<Problem> {
  const error: unknown = await call.then(
    () => assert.fail("the response was a success"),
    (error: unknown) => error,
  );
  assert(error instanceof ResponseError);
  assert.equal(error.response.status, status);
  assert(error.response.headers.get("www-authenticate")?.startsWith("Bearer"));
  return ProblemFromJSON(await error.response.json());
}

await run("openapi-generator", {
  "/ without credentials": async () => {
    const greeting = await new GreetingApi(anonymous).getGreeting();
    assert.equal(greeting.message, "Poem x Hanko!");
  },
  "/protected with a Bearer token": async () => {
    const greeting = await new GreetingApi(bearer).getProtectedGreeting();
    assert.equal(greeting.message, "Hello from protected route!");
  },
  "/me with a Bearer token": async () => {
    const session = await new SessionApi(bearer).getMe();
    assert.match(session.userId, /^[0-9a-f-]{36}$/);
    assert.equal(session.email?.address, "ada@example.com");
    assert.equal(session.email.isVerified, true);
    assert.equal(session.username, undefined);
    assert(session.expiresAt > new Date());
  },
  "/protected with the cookie": async () => {
    const greeting = await new GreetingApi(withCookie).getProtectedGreeting();
    assert.equal(greeting.message, "Hello from protected route!");
  },
  "/me with the cookie": async () => {
    const session = await new SessionApi(withCookie).getMe();
    assert.equal(session.username, "grace");
  },
  "401 without credentials": async () => {
    const problem = await problemOf(new SessionApi(anonymous).getMe());
    assert.equal(problem.type, "/problems/missing-credentials");
  },
  "401 with a bad token": async () => {
    const bad = new Configuration({ basePath: api, accessToken: "not.a.token" });
    const problem = await problemOf(new GreetingApi(bad).getProtectedGreeting());
    assert.equal(problem.status, 401);
    assert.equal(problem.type, "/problems/invalid-token");
  },
  "403 of a guard": async () => {
    const guest = new Configuration({ basePath: api, accessToken: unverified });
    const problem = await problemOf(new GreetingApi(guest).getVerifiedGreeting(), 403);
    assert.equal(problem.type, "/problems/insufficient-permission");
  },
});
