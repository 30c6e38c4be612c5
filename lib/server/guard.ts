import { createHash, timingSafeEqual } from 'node:crypto'
import { BlockList, isIP } from 'node:net'
import { RequestFailure } from './failure.js'

/** Whom a server answers. */
export interface Guarded {
  /** What it was told to listen on. */
  host: string
  apiKey: string | undefined
}

/**
 * Refuses requests with no key, or another. Digests have one length, and comparing them tells nothing of how far two
 * keys agree.
 */
export function checkKey({ apiKey }: Guarded, authorization: string | undefined): void {
  if (apiKey === undefined) return
  const given = /^Bearer +(.*)$/i.exec(authorization ?? '')?.[1]
  if (given !== undefined && timingSafeEqual(digest(given), digest(apiKey))) return
  const problem =
    given === undefined ? 'an API key is needed, as Authorization: Bearer KEY' : 'the API key is wrong'
  throw new RequestFailure(401, 'invalid_api_key', problem, { headers: { 'www-authenticate': 'Bearer' } })
}

function digest(key: string): Buffer {
  return createHash('sha256').update(key).digest()
}

/**
 * Refuses what a browser may send for a page of elsewhere, whose name was made to lead here (DNS rebinding): without a
 * key and on a loopback address, requests must name an address or this machine itself. `url` is where the server listens.
 */
export function checkHost({ host, apiKey }: Guarded, url: string, header: string | undefined): void {
  // No browser leaves the header out: HTTP/1.0 may, and Node refuses all else that does.
  if (apiKey !== undefined || header === undefined || !isLoopback(url)) return
  const name = hostname(`http://${header}`)
  if (name !== undefined && (isLocalName(name) || isIP(name) !== 0 || name === host.toLowerCase())) return
  throw new RequestFailure(
    403,
    'host_not_allowed',
    `the server listens on ${host} and is not ${header}: ask it by its address, or start it with an API key`,
  )
}

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8)
loopback.addAddress('::1', 'ipv6')

/** Whether only this machine reaches a server that listens at `url`, which names an address. */
export function isLoopback(url: string): boolean {
  const address = hostname(url) ?? ''
  return loopback.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
}

function isLocalName(name: string): boolean {
  return name === 'localhost' || name.endsWith('.localhost')
}

/** Without port and, where it is an IPv6 address, brackets. */
function hostname(url: string): string | undefined {
  return URL.canParse(url) ? new URL(url).hostname.replace(/^\[(.*)\]$/, '$1') : undefined
}
