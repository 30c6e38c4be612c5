import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { getHFHubCachePath, HUB_URL } from '@huggingface/hub'
import { FlrcError } from '../errors.js'

/** What the environment says of the hub, by the names that the Python library gave its variables. */
export interface HubSettings {
  /** HF_ENDPOINT, without a slash at its end. */
  endpoint: string
  /** HF_TOKEN, or what `hf auth login` has left in HF_HOME. */
  token: string | undefined
  /** HF_HUB_OFFLINE. */
  offline: boolean
  /** HF_HUB_CACHE, or `hub` in HF_HOME. */
  cache: string
}

export async function hubSettings(): Promise<HubSettings> {
  const { HF_ENDPOINT, HF_HUB_OFFLINE = '' } = process.env
  return {
    endpoint: (HF_ENDPOINT || HUB_URL).replace(/\/+$/, ''),
    token: await accessToken(),
    offline: /^(1|on|yes|true)$/i.test(HF_HUB_OFFLINE),
    cache: getHFHubCachePath(),
  }
}

async function accessToken(): Promise<string | undefined> {
  const { HF_TOKEN, HF_TOKEN_PATH, HF_HOME, XDG_CACHE_HOME } = process.env
  const home = HF_HOME || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface')
  const given = HF_TOKEN || (await readFile(HF_TOKEN_PATH || join(home, 'token'), 'utf8').catch(() => ''))
  const token = given.trim()
  if (token === '' || token.startsWith('hf_')) return token || undefined
  throw new FlrcError(
    'E_HUB',
    `${HF_TOKEN ? 'HF_TOKEN' : 'the token of hf auth login'} is no access token of the hub; it must begin with hf_`,
  )
}
