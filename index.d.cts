// What `require` gives, to a TypeScript that is told of a Node which could not load ES modules so (`module: node16`).
// @ts-ignore: it says so here, too, where libraries are checked.
export * from './dist/index.js'
