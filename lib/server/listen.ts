import { once } from 'node:events'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer, type HttpBindings } from '@hono/node-server'
import { systemCode } from '../checkpoint/io.js'
import { FlrcError } from '../errors.js'
import type { ServedRequest } from '../serve.js'
import type { RequestRecord } from './answer.js'
import type { RequestContext } from './app.js'

/** How long answers under way may take to end once the server closes; connections are cut then. */
const closingMs = 1000
const sweepMs = 20

export interface Listening {
  url: string
  /** Takes no more connections, and resolves when those there are have ended. */
  close(): Promise<void>
}

export interface ListenOptions {
  host: string
  /** 0 takes any that is free. */
  port: number
  fetch: (request: Request, context: RequestContext) => Response | Promise<Response>
  /** Hears of every request when its connection is done with it. */
  onRequest?: (request: ServedRequest) => void
}

/** Status of a request whose client left before the answer was whole, as nginx has it. */
const clientLeft = 499

/** Node's own limits of time for headers and bodies hold. E_IO where the address cannot be listened on. */
export async function listen({ host, port, fetch, onRequest }: ListenOptions): Promise<Listening> {
  let url = ''
  const server = createAdaptorServer({
    // Named where a client of HTTP/1.0 names none: a Request has a whole URL.
    hostname: 'localhost',
    fetch(request, bindings) {
      const record: RequestRecord = { promptTokens: 0, completionTokens: 0 }
      const { incoming, outgoing } = bindings as HttpBindings
      const begin = performance.now()
      outgoing.once('close', () => {
        const served = {
          method: incoming.method ?? '',
          path: new URL(request.url).pathname,
          status: outgoing.writableFinished ? outgoing.statusCode : clientLeft,
          ...record,
          seconds: (performance.now() - begin) / 1000,
        }
        // What fails in a listener is no reason to end the process, and with it all answers under way.
        const told = async () => onRequest?.(served)
        told().catch((error: unknown) => process.emitWarning(`onRequest failed: ${String(error)}`))
      })
      const chunked = incoming.httpVersion !== '1.0'
      return fetch(request, { url, record, chunked, cut: () => outgoing.destroy() })
    },
    // Whoever serves a model goes on with Node's own Request and Response.
    overrideGlobalObjects: false,
  }) as Server
  try {
    server.listen(port, host)
    await once(server, 'listening')
  } catch (error) {
    throw listenError(error, host, port)
  }
  // That one connection could not be accepted, say for want of file descriptors, is no reason to end.
  server.on('error', () => undefined)
  const { address, family, port: chosen } = server.address() as AddressInfo
  url = `http://${family === 'IPv6' ? `[${address}]` : address}:${chosen}`
  let closed: Promise<void> | undefined
  const close = () => {
    closed ??= closeServer(server)
    return closed
  }
  return { url, close }
}

async function closeServer(server: Server): Promise<void> {
  const closed = once(server, 'close')
  server.close()
  // Connections are kept alive between requests, so they end only if told to.
  const sweep = setInterval(() => server.closeIdleConnections(), sweepMs)
  const limit = setTimeout(() => server.closeAllConnections(), closingMs)
  await closed
  clearInterval(sweep)
  clearTimeout(limit)
}

const reasons: Record<string, string> = {
  EADDRINUSE: 'something listens there already; give another port, or 0 for any that is free',
  EACCES: 'not permitted; give a port from 1024 on',
  EADDRNOTAVAIL: 'this machine has no such address; give one of its own, such as 127.0.0.1',
  ENOTFOUND: 'no such host; give an address of this machine, such as 127.0.0.1',
}

function listenError(error: unknown, host: string, port: number): unknown {
  const code = systemCode(error)
  if (code === undefined) return error
  const reason = reasons[code] ?? `cannot be listened on (${code}); give another address`
  return new FlrcError('E_IO', `${host}, port ${port}: ${reason}`, { cause: error })
}
