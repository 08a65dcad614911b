// The structure of screens: roles and names of their accessibility trees, compared with a file.
//
// Data is left out, because it is another one in each run: what is not translated, times, items of
// lists beyond the first one, and what follows the first digit of a name.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';

/** Elements that show data. */
const DATA = [
  '[translate=no]:not(option)',
  'time',
  'main h1 small',
  '.lines li',
  '.timeline li',
  '.log li',
  '.needs li',
  '.chips button.chip',
  '.maintenance',
  '.answer h3',
  'details',
  '.tbody .tr:not(:first-child)',
  '.cell:not(:first-child)',
  'table.plain tbody tr:not(:first-child)',
].join(',');
/** Roles that are texts, of which the names of other roles are made. */
const TEXTS = ['StaticText', 'InlineTextBox', 'LineBreak', 'ListMarker', 'option', 'time'];
/** Roles whose names are made of data. */
const NAMELESS = ['RootWebArea', 'row', 'cell', 'checkbox', 'image', 'listitem', 'code'];

function nameOf({ role, name = '' }) {
  if (NAMELESS.includes(role)) return '';
  const words = name.replace(/\s+/g, ' ').trim();
  const digit = words.search(/\d/);
  const kept = digit < 0 ? words : `${words.slice(0, digit)}#`;
  return kept && ` "${kept}"`;
}

function linesOf(node, depth = 0, leftOut = []) {
  if ([...TEXTS, ...leftOut].includes(node.role)) return [];
  const line = `${'  '.repeat(depth)}${node.role}${nameOf(node)}`;
  const below = (node.children ?? []).flatMap((child) => linesOf(child, depth + 1, leftOut));
  return [line, ...below];
}

/** The first element of a role. */
function firstOf(node, role) {
  if (node.role === role) return node;
  for (const child of node.children ?? []) {
    const found = firstOf(child, role);
    if (found) return found;
  }
  return null;
}

/** Equal lines that follow each other are one: how many there are depends on the data. */
const once = (lines) => lines.filter((line, at) => line !== lines[at - 1]).join('\n');

/** The structures of the screen or its dialog, and of the frame around screens. */
export async function structureOf(page) {
  const mark = (data, isHidden) =>
    page.$$eval(
      data,
      (all, hides) =>
        all.forEach((it) => {
          if (!hides) {
            if (it.dataset.hidden !== undefined) it.removeAttribute('aria-hidden');
            delete it.dataset.hidden;
          } else if (!it.hasAttribute('aria-hidden')) {
            it.setAttribute('aria-hidden', 'true');
            it.dataset.hidden = '';
          }
        }),
      isHidden,
    );
  await mark(DATA, true);
  const tree = await page.accessibility.snapshot();
  await mark('[data-hidden]', false);
  const shown = firstOf(tree, 'dialog') ?? firstOf(tree, 'main');
  const frame = linesOf(tree, 0, ['main']);
  return { screen: once(linesOf(shown)), frame: once(frame) };
}

/** Compares the structures of screens, by their names, with those of a file; or writes the file. */
export function compareStructures(structures, path) {
  const text = Object.entries(structures)
    .map(([name, structure]) => `== ${name}\n${structure}\n`)
    .join('\n');
  if (process.env.WEIR_GOLDEN === 'write') {
    writeFileSync(path, text);
    return;
  }
  const stored = readFileSync(path, 'utf8').split('\n');
  const found = text.split('\n');
  const at = found.findIndex((line, index) => line !== stored[index]);
  if (at < 0 && found.length === stored.length) return;
  const from = at < 0 ? found.length : at;
  const screen = found.slice(0, from + 1).findLast((line) => line.startsWith('== '));
  const part = (lines) => lines.slice(Math.max(0, from - 3), from + 4).join('\n');
  assert.fail(
    `${path}: another structure from line ${from + 1} on, ${screen}; ` +
      `WEIR_GOLDEN=write replaces the file.\n--- stored\n${part(stored)}\n--- found\n${part(found)}`,
  );
}
