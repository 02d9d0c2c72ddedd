import { Elysia } from 'elysia'
import { verifySession } from './session.js'

const session = new Elysia({ name: 'session' })
  .derive({ as: 'scoped' }, async ({ headers, cookie, status }) => {
    const token = headers.authorization
      ? headers.authorization.replace(/^Bearer /i, '')
      : cookie.hanko?.value
    if (!token) return status(401, { message: 'Unauthorized' })
    try {
      return { session: await verifySession(token) }
    } catch {
      return status(401, { message: 'Unauthorized' })
    }
  })

new Elysia()
  .get('/', () => ({ message: 'Poem x Hanko!' }))
  .use(session)
  .get('/protected', () => ({ message: 'Hello from protected route!' }))
  .listen({ hostname: '127.0.0.1', port: process.env.PORT })
