import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export const commit = 'a'.repeat(40)

export interface Request {
  method: string
  url: string
  range: string | undefined
  authorization: string | undefined
}

/** How the storage server behind the hub misbehaves. */
export interface Faults {
  /** Closes the connection after so many bytes of a body, so many times. */
  cutAfter?: { bytes: number; times: number }
  /** Sends these bytes in place of a file's own. */
  spoil?: (content: Buffer) => Buffer
  /** Stops sending after so many bytes, and keeps the connection. */
  stallAfter?: number
}

export interface Repository {
  id: string
  files: Record<string, string | Buffer>
  /** Branches and tags that point to `commit`. */
  refs?: string[]
  /** Answers all with this status. */
  status?: number
  /** Large files are in Xet storage: who asks for it is told where, all others are sent to a bridge of plain HTTP. */
  xet?: boolean
}

/** Files from this size on are in large-file storage, on a server of its own. */
const lfsFrom = 100_000
const pageSize = 3
const xetInfo = 'application/vnd.xet-fileinfo+json'

const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex')
const gitHash = (content: Buffer) =>
  createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex')

/** Name of a file's blob in the cache. */
export function etagOf(content: string | Buffer): string {
  const bytes = Buffer.from(content)
  return bytes.length >= lfsFrom ? sha256(bytes) : gitHash(bytes)
}

/** A server that speaks the hub's routes for one repository, and the storage server that it redirects to. */
export class HubServer {
  readonly requests: Request[] = []
  faults: Faults = {}
  readonly #repository: Repository
  readonly #hub: Server
  readonly #storage: Server

  private constructor(repository: Repository) {
    this.#repository = repository
    this.#hub = createServer((request, response) => this.#answer(request, response))
    this.#storage = createServer((request, response) => this.#store(request, response))
  }

  static async start(repository: Repository): Promise<HubServer> {
    const server = new HubServer(repository)
    for (const one of [server.#hub, server.#storage]) {
      await new Promise<void>((resolve) => one.listen(0, '127.0.0.1', resolve))
    }
    return server
  }

  get endpoint(): string {
    return originOf(this.#hub)
  }

  /** Requests for files' contents, without the client's look at a file's first byte. */
  get downloads(): Request[] {
    return this.requests.filter(({ url, range }) => url.includes('/resolve/') && range !== 'bytes=0-0')
  }

  async close(): Promise<void> {
    for (const one of [this.#hub, this.#storage]) {
      one.closeAllConnections()
      await new Promise((resolve) => one.close(resolve))
    }
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    this.#record(request)
    const { id, files, refs = ['main'], status } = this.#repository
    const url = new URL(request.url ?? '', this.endpoint)
    const fail = (code: number, error: string) =>
      response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify({ error }))
    const [, route, rest = ''] =
      new RegExp(`^/(?:api/models/)?${id}/(revision|tree|resolve)/(.*)$`).exec(
        decodeURIComponent(url.pathname),
      ) ?? []
    const [revision = '', ...names] = rest.split('/')
    const path = names.join('/')
    const content = files[path]
    if (status !== undefined) fail(status, 'as the test wants')
    else if (revision !== commit && !refs.includes(revision)) fail(404, 'Invalid rev id')
    else if (route === 'revision') {
      const body = { _id: '1', id, modelId: id, sha: commit, lastModified: new Date(0).toISOString() }
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    } else if (route === 'tree') this.#list(path, url, response)
    else if (content === undefined) fail(404, 'Entry not found')
    else this.#resolve(Buffer.from(content), request, response)
  }

  /** Small files come from the hub itself, large ones from the storage server. */
  #resolve(content: Buffer, request: IncomingMessage, response: ServerResponse): void {
    const headers = { 'x-repo-commit': commit }
    if (content.length < lfsFrom) {
      send(content, request, response, { ...headers, etag: `"${gitHash(content)}"` })
      return
    }
    const hash = sha256(content)
    const linked = { 'x-linked-etag': `"${hash}"`, 'x-linked-size': content.length }
    if (this.#repository.xet === true && request.headers.accept?.includes(xetInfo)) {
      const at = (route: string) => `${originOf(this.#storage)}/${route}/${hash}`
      const link = `<${at('token')}>; rel="xet-auth", <${at('reconstruction')}>; rel="xet-reconstruction-info"`
      response.writeHead(200, { ...headers, ...linked, 'content-type': xetInfo, 'x-xet-hash': hash, link })
      response.end(JSON.stringify({ hash }))
      return
    }
    response.writeHead(302, { ...headers, ...linked, location: `${originOf(this.#storage)}/${hash}` }).end()
  }

  /** Entries of one folder, a few at a time. */
  #list(folder: string, url: URL, response: ServerResponse): void {
    const prefix = folder === '' ? '' : `${folder}/`
    const entries = Object.entries(this.#repository.files)
      .filter(
        ([path]) => path.startsWith(prefix) && !path.slice(prefix.length).replace('../', '').includes('/'),
      )
      .map(([path, content]) => {
        const bytes = Buffer.from(content)
        const entry = { type: 'file', path, size: bytes.length, oid: gitHash(bytes) }
        const lfs = { oid: sha256(bytes), size: bytes.length, pointerSize: 134 }
        const xet = this.#repository.xet === true ? { xetHash: lfs.oid } : {}
        return bytes.length < lfsFrom ? entry : { ...entry, lfs, ...xet }
      })
    const from = Number(url.searchParams.get('cursor') ?? 0)
    const next = new URL(url)
    next.searchParams.set('cursor', String(from + pageSize))
    const link = from + pageSize < entries.length ? { link: `<${next}>; rel="next"` } : {}
    response
      .writeHead(200, { 'content-type': 'application/json', ...link })
      .end(JSON.stringify(entries.slice(from, from + pageSize)))
  }

  #store(request: IncomingMessage, response: ServerResponse): void {
    this.#record(request)
    const found = Object.values(this.#repository.files)
      .map((content) => Buffer.from(content))
      .find((content) => request.url === `/${sha256(content)}`)
    if (found === undefined) {
      response.writeHead(404).end()
      return
    }
    const { spoil = (content: Buffer) => content, cutAfter, stallAfter } = this.faults
    let stop: { bytes: number; close: boolean } | undefined
    if (request.headers.range !== 'bytes=0-0') {
      if (stallAfter !== undefined) stop = { bytes: stallAfter, close: false }
      if (cutAfter && cutAfter.times-- > 0) stop = { bytes: cutAfter.bytes, close: true }
    }
    send(spoil(found), request, response, { etag: '"storage"' }, stop)
  }

  #record(request: IncomingMessage): void {
    const { method = '', url = '', headers } = request
    this.requests.push({ method, url, range: headers.range, authorization: headers.authorization })
  }
}

function originOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Answers with the content or the range asked for, of which it may send only the beginning. */
function send(
  content: Buffer,
  request: IncomingMessage,
  response: ServerResponse,
  headers: Record<string, string>,
  stop?: { bytes: number; close: boolean },
): void {
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? []
  const begin = Number(first ?? 0)
  const end = Math.min(last ? Number(last) + 1 : content.length, content.length)
  const body = content.subarray(begin, end)
  const range = first === undefined ? {} : { 'content-range': `bytes ${begin}-${end - 1}/${content.length}` }
  response.writeHead(first === undefined ? 200 : 206, { ...headers, ...range, 'content-length': body.length })
  if (stop === undefined) response.end(body)
  else response.write(body.subarray(0, stop.bytes), () => stop.close && response.destroy())
}
