"use strict";

(async () => {
  const root = document.getElementById("swagger-ui");
  let spec;
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    spec = await response.json();
  } catch (error) {
    root.textContent = `The OpenAPI document could not be loaded (${error.message}). Reload the page to try again.`;
    return;
  }
  // Requests go to where this page came from, so that they are same-origin by whatever name the server was reached.
  const here = new URL(".", window.location.href).href.replace(/\/$/, "");
  const others = spec.servers.filter((server) => server.url !== here);
  spec.servers = [{ url: here, description: "This server" }, ...others];
  window.ui = SwaggerUIBundle({
    spec,
    domNode: root,
    deepLinking: true,
    displayOperationId: true,
    displayRequestDuration: true,
    persistAuthorization: true,
    requestSnippetsEnabled: true,
    validatorUrl: null,
    withCredentials: true,
  });
})();
