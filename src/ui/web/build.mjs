// Builds the interface into a directory: one script, one style sheet, the icon and the page that
// loads them, each also compressed, and one script per language beside English, which is loaded
// only where it is chosen. `hash` names all of them together.
//
//   node build.mjs DIRECTORY
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const [to] = process.argv.slice(2);
if (!to) throw new Error('usage: node build.mjs DIRECTORY');
const here = fileURLToPath(new URL('.', import.meta.url));

const locales = (await readdir(join(here, 'src/languages')))
  .map((name) => name.replace(/\.ts$/, ''))
  .filter((locale) => locale !== 'en')
  .sort();
const languages = Object.fromEntries(
  locales.map((locale) => [`lang-${locale}`, `src/languages/${locale}.ts`]),
);
const bundled = await build({
  absWorkingDir: here,
  entryPoints: { app: 'src/main.tsx', ...languages },
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  outdir: 'out',
  write: false,
});
const style = await build({
  absWorkingDir: here,
  entryPoints: { app: 'styles/app.css' },
  bundle: true,
  minify: true,
  outdir: 'out',
  write: false,
});
const files = new Map([
  ...bundled.outputFiles.map(({ path, contents }) => [basename(path), Buffer.from(contents)]),
  ['app.css', Buffer.from(style.outputFiles[0].contents)],
  ['icon.svg', await readFile(join(here, 'icon.svg'))],
]);
const page = await readFile(join(here, 'index.html'), 'utf8');

const digest = createHash('sha256').update(page);
for (const [name, bytes] of files) digest.update(`${name} ${bytes.length}\n`).update(bytes);
const hash = digest.digest('hex').slice(0, 16);
files.set('index.html', Buffer.from(page.replaceAll('HASH', hash)));

await rm(to, { recursive: true, force: true });
await mkdir(to, { recursive: true });
for (const [name, bytes] of files) {
  const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY } };
  await writeFile(join(to, name), bytes);
  await writeFile(join(to, `${name}.gz`), gzipSync(bytes, { level: 9 }));
  await writeFile(join(to, `${name}.br`), brotliCompressSync(bytes, quality));
}
await writeFile(join(to, 'hash'), hash);
