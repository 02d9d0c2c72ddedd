import { Hono } from 'hono'
import { getCookie } from 'hono/cookie'
import { createMiddleware } from 'hono/factory'
import { verifySession } from './session.js'

const session = createMiddleware(async (c, next) => {
  const authorization = c.req.header('authorization')
  const token = authorization ? authorization.replace(/^Bearer /i, '') : getCookie(c, 'hanko')
  if (!token) return c.json({ message: 'Unauthorized' }, 401)
  try {
    c.set('session', await verifySession(token))
  } catch {
    return c.json({ message: 'Unauthorized' }, 401)
  }
  await next()
})

export const app = new Hono()
app.get('/', (c) => c.json({ message: 'Poem x Hanko!' }))
app.get('/protected', session, (c) => c.json({ message: 'Hello from protected route!' }))
