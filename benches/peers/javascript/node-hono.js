import { serve } from '@hono/node-server'
import { app } from './hono.js'

serve({ hostname: '127.0.0.1', port: Number(process.env.PORT), fetch: app.fetch })
