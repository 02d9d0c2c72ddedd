import { Hanko } from "@teamhanko/hanko-frontend-sdk";
import { useCallback, useEffect, useState } from "react";
import { getGreeting, getMe, signInUrl } from "./api.js";

const hanko = new Hanko(import.meta.env.VITE_HANKO_API_URL);

async function load() {
  const token = hanko.getSessionToken();
  const [session, greeting, me] = await Promise.all([
    hanko.validateSession(),
    getGreeting(),
    token ? getMe(token) : undefined,
  ]);
  return { session, greeting, me };
}

export function App() {
  const [state, setState] = useState();
  const refresh = useCallback(() => load().then(setState, (error) => setState({ error })), []);
  useEffect(() => {
    refresh();
    return hanko.onUserLoggedOut(refresh);
  }, [refresh]);

  if (!state) return <main>Loading …</main>;
  if (state.error) return <main role="alert">Hanko cannot be reached: {state.error.message}</main>;
  const { session, greeting, me } = state;
  return (
    <main>
      <h1>A frontend</h1>
      <dl>
        <dt>Hanko</dt>
        <dd data-testid="hanko">
          {session.is_valid ? `Signed in as ${session.claims.email.address}` : "Nobody is signed in"}
        </dd>
        <dt>The API, with the cookie</dt>
        <Answer id="greeting" answer={greeting} text={(body) => body.message} />
        {me && (
          <>
            <dt>The API, with the session token</dt>
            <Answer id="me" answer={me} text={(body) => `Signed in as ${body.email.address}`} />
          </>
        )}
      </dl>
      {session.is_valid ? (
        <button onClick={() => hanko.logout()}>Sign out</button>
      ) : (
        <a href={signInUrl}>Sign in</a>
      )}
    </main>
  );
}

function Answer({ id, answer, text }) {
  if (answer.isBlocked) {
    return (
      <dd data-testid={id} className="refused">
        The browser blocked it: the API does not allow {window.location.origin}
      </dd>
    );
  }
  if (!answer.ok) {
    return (
      <dd data-testid={id} className="refused">
        {answer.status} {answer.body.title}
      </dd>
    );
  }
  return <dd data-testid={id}>{text(answer.body)}</dd>;
}
