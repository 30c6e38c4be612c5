import { createHash, timingSafeEqual } from 'node:crypto'
import { isIP } from 'node:net'
import { RequestFailure } from './failure.js'

/** Whom a server answers. */
export interface Guarded {
  /** The address that it listens on. */
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
 * key and on a loopback address, requests must name an address or this machine itself.
 */
export function checkHost({ host, apiKey }: Guarded, header: string | undefined): void {
  if (apiKey !== undefined || !isLoopback(host)) return
  const name = header === undefined ? undefined : hostname(header)
  if (name !== undefined && (isLocalName(name) || isIP(name) !== 0 || name === host.toLowerCase())) return
  throw new RequestFailure(
    403,
    'host_not_allowed',
    `the server listens on ${host} and is not ${header ?? 'named'}: ask it by its address, or start it with an API key`,
  )
}

export function isLoopback(host: string): boolean {
  return isLocalName(host.toLowerCase()) || /^127(\.\d+){3}$/.test(host) || host === '::1'
}

function isLocalName(name: string): boolean {
  return name === 'localhost' || name.endsWith('.localhost')
}

/** Without port and, where it is an IPv6 address, brackets. */
function hostname(header: string): string | undefined {
  const url = URL.canParse(`http://${header}`) ? new URL(`http://${header}`) : undefined
  return url?.hostname.replace(/^\[(.*)\]$/, '$1')
}
