const named = /^(.*)-(\d{5})-of-(\d{5})(\.gguf)$/is

/** The names of all parts of a split GGUF file, the first one first, by the name of any; undefined where it is none. */
export function ggufParts(file: string): string[] | undefined {
  const [, stem, no, count, ending] = named.exec(file) ?? []
  if (count === undefined || Number(count) < 2 || Number(no) < 1 || Number(no) > Number(count)) return undefined
  const padded = (part: number) => String(part).padStart(5, '0')
  return Array.from({ length: Number(count) }, (_, i) => `${stem}-${padded(i + 1)}-of-${count}${ending}`)
}
