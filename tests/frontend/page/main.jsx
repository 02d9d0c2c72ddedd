import { Hanko } from "@teamhanko/hanko-frontend-sdk";
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

const api = import.meta.env.VITE_API_URL;
const hanko = new Hanko(import.meta.env.VITE_HANKO_API_URL);

/** What the API says to whoever the browser's cookie stands for. */
async function greet() {
  const response = await fetch(`${api}/protected`, { credentials: "include" });
  const body = await response.json();
  return response.ok ? body.message : `${response.status}: ${body.title}`;
}

function App() {
  const [session, setSession] = useState("…");
  const [greeting, setGreeting] = useState("…");

  useEffect(() => {
    hanko.validateSession().then(
      ({ is_valid }) => setSession(is_valid ? "signed in" : "signed out"),
      (error) => setSession(`Hanko cannot be asked: ${error.message}`),
    );
    greet().then(setGreeting, (error) => setGreeting(`The browser blocked it: ${error.message}`));
  }, []);

  return (
    <main>
      <h1>A frontend behind Hanko</h1>
      <p>
        Hanko says: <strong data-testid="session">{session}</strong>
      </p>
      <p>
        The API says: <strong data-testid="greeting">{greeting}</strong>
      </p>
      <p>
        The SDK {hanko.getSessionToken() ? "finds a session token in the cookie." : "finds no session token."}
      </p>
      <a href={`${api}/dev/sign-in`}>Sign in</a>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<App />);
