"use strict";

// Swagger UI's `persistAuthorization` stores tokens here. None may outlive its session.
try {
  localStorage.removeItem("authorized");
} catch {
  // The browser allows no storage, so nothing is in it.
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const applyColors = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
applyColors();
dark.addEventListener("change", applyColors);

const sessionStatus = document.getElementById("session");
const { cookie } = sessionStatus.dataset;

const describeSession = {
  signed_in: ({ email, username, user_id }) => `Signed in as ${email ?? username ?? user_id} by the cookie ${cookie}, unless Authorize has a token.`,
  anonymous: () => `Nobody is signed in: there is no cookie ${cookie}.`,
  rejected: ({ reason }) => `The cookie ${cookie} is rejected: ${reason}.`,
};

async function showSession() {
  let text;
  let isRejected = false;
  try {
    const response = await fetch("docs/session");
    const session = await response.json();
    isRejected = session.status === "rejected";
    text = describeSession[session.status](session);
  } catch {
    text = `It is not known at the moment whether the cookie ${cookie} is valid.`;
  }
  // Screen readers would read an unchanged text again if it were set.
  if (sessionStatus.textContent !== text) sessionStatus.textContent = text;
  sessionStatus.classList.toggle("rejected", isRejected);
}

showSession();
// Somebody may have signed in or out in another tab.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") showSession();
});

/**
 * Removes cookies from the security schemes. A page cannot set the `Cookie` header of its requests, so an input for a cookie
 * would have no effect. The browser adds the cookie.
 */
function removeCookieSchemes(spec) {
  const schemes = spec.components?.securitySchemes ?? {};
  const isCookie = (name) => schemes[name]?.in === "cookie";
  const prune = (requirements) =>
    requirements.flatMap((requirement) => {
      const kept = Object.entries(requirement).filter(([name]) => !isCookie(name));
      const isOnlyCookies = kept.length === 0 && Object.keys(requirement).length > 0;
      return isOnlyCookies ? [] : [Object.fromEntries(kept)];
    });
  const operations = Object.values(spec.paths).flatMap((path) => Object.values(path));
  for (const secured of [spec, ...operations]) {
    if (secured.security) secured.security = prune(secured.security);
  }
  for (const name of Object.keys(schemes).filter(isCookie)) delete schemes[name];
}

(async () => {
  const root = document.getElementById("swagger-ui");
  const fail = (text) => {
    const message = document.createElement("p");
    message.className = "message";
    message.setAttribute("role", "alert");
    message.textContent = text;
    root.replaceChildren(message);
  };
  if (typeof SwaggerUIBundle === "undefined") {
    fail("Swagger UI could not be loaded. Reload the page to try again. The document is linked above.");
    return;
  }
  let spec;
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    spec = await response.json();
  } catch (error) {
    fail(`The OpenAPI document could not be loaded (${error.message}). Reload the page to try again.`);
    return;
  }
  removeCookieSchemes(spec);
  // Requests go to the server of this page by the same name, so that they are same-origin.
  const here = new URL(".", window.location.href).href.replace(/\/$/, "");
  const others = spec.servers.filter((server) => server.url !== here);
  spec.servers = [{ url: here, description: "This server" }, ...others];
  root.replaceChildren();
  window.ui = SwaggerUIBundle({
    spec,
    domNode: root,
    deepLinking: true,
    displayOperationId: true,
    displayRequestDuration: true,
    // A kept token would be used instead of the cookie of a later sign-in.
    persistAuthorization: false,
    requestSnippetsEnabled: true,
    validatorUrl: null,
    withCredentials: true,
  });
})();
