const url = import.meta.env.VITE_API_URL;

export const signInUrl = `${url}/dev/sign-in`;

/** Asks with the cookie, which the browser sends along. */
export const getGreeting = () => get("/protected", { credentials: "include" });

/** Asks with the session token, as a page does whose API is on another domain than its cookie. */
export const getMe = (token) => get("/me", { headers: { Authorization: `Bearer ${token}` } });

/** The answer as `{ ok, status, body }`, or `{ isBlocked: true }`. */
async function get(path, options) {
  try {
    const response = await fetch(url + path, options);
    return { ok: response.ok, status: response.status, body: await response.json() };
  } catch {
    // A page is told no more: the API could not be reached, or does not allow the page's origin.
    return { isBlocked: true };
  }
}
