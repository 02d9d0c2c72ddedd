import { app } from './hono.js'

export default { hostname: '127.0.0.1', port: process.env.PORT, fetch: app.fetch }
