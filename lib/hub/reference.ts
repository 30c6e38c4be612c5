/** A model on the hub. */
export interface HubReference {
  /** `org/name`. */
  repo: string
  /** Path of a GGUF file in the repository, for one that is not a Hugging Face model as a whole. */
  file: string | undefined
  /** Branch, tag or commit. */
  revision: string
}

export const commitPattern = /^[0-9a-f]{40}$/

const segment = String.raw`(?!\.)[\w.-]+`
const pattern = new RegExp(
  `^(?<repo>${segment}/${segment})(?:/(?<file>(?:${segment}/)*${segment}\\.gguf))?(?:@(?<revision>${segment}(?:/${segment})*))?$`,
)

/** `org/name`, `org/name/file.gguf`, each with `@revision` or without; undefined for what can only be a path. */
export function parseHubReference(text: string): HubReference | undefined {
  const { repo, file, revision = 'main' } = pattern.exec(text)?.groups ?? {}
  if (repo === undefined || (file === undefined && /\.(gguf|safetensors)$/.test(repo))) return undefined
  return { repo, file, revision }
}

export function referenceText({ repo, file, revision }: HubReference): string {
  return `${repo}${file === undefined ? '' : `/${file}`}${revision === 'main' ? '' : `@${revision}`}`
}
