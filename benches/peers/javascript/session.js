// What both frameworks share: the verification of a Hanko session token, as Hanko's guide for custom backends has it.
import { createRemoteJWKSet, jwtVerify } from 'jose'

const jwks = createRemoteJWKSet(new URL(`${process.env.HANKO_API_URL}/.well-known/jwks.json`))

export async function verifySession(token) {
  const { payload } = await jwtVerify(token, jwks, { algorithms: ['RS256'] })
  return payload
}
