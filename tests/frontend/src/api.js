const url = import.meta.env.VITE_API_URL;

export const signInUrl = `${url}/dev/sign-in`;

/** Sends a request with the cookie, which the browser adds. */
export const getGreeting = () => get("/protected", { credentials: "include" });

/** Sends a request with the session token, for an API on another domain than the cookie. */
export const getMe = (token) => get("/me", { headers: { Authorization: `Bearer ${token}` } });

/** Returns the response as `{ ok, status, body }`, or `{ isBlocked: true }`. */
async function get(path, options) {
  try {
    const response = await fetch(url + path, options);
    return { ok: response.ok, status: response.status, body: await response.json() };
  } catch {
    // The browser gives no details: the API could not be reached, or does not allow the page's origin.
    return { isBlocked: true };
  }
}
