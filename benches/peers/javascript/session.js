// Verifies a Hanko session token, for both frameworks, as in Hanko's guide for custom backends.
import { createRemoteJWKSet, jwtVerify } from 'jose'

const jwks = createRemoteJWKSet(new URL(`${process.env.HANKO_API_URL}/.well-known/jwks.json`))

export async function verifySession(token) {
  const { payload } = await jwtVerify(token, jwks, { algorithms: ['RS256'] })
  return payload
}
