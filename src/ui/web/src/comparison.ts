// Two editors of one entity: what is stored now beside what this one would have made of it.
import { withoutSecrets } from './secrets';

/** Who changed a member since it was read. */
export type ChangedBy = 'theirs' | 'mine' | 'both';

export interface Difference {
  /** The names of the member, from the outermost one. */
  member: string;
  /** Its values as JSON, secrets masked; `null`: it is absent. */
  theirs: string | null;
  mine: string | null;
  by: ChangedBy;
}

/** Characters of a value that are shown. */
const VALUE_LENGTH_MAX = 300;
/** Members that the server adds to an entity. */
const ADDED = [
  'config_on_disk',
  'dvrs',
  'health',
  'layout',
  'load',
  'named_by',
  'placed',
  'provisioning',
  'srt_port_resolve',
  'state',
  'stats',
  'streams',
  'updated_at',
];

type Members = Record<string, unknown>;

const isObject = (value: unknown): value is Members =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The configuration of an entity as it was saved. */
export function configOf(entity: unknown): Members {
  if (!isObject(entity)) return {};
  if (isObject(entity.config_on_disk)) return entity.config_on_disk;
  return Object.fromEntries(Object.entries(entity).filter(([name]) => !ADDED.includes(name)));
}

/** What a merge patch (RFC 7396) makes of a value. */
export function patched(value: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const made = new Map(isObject(value) ? Object.entries(value) : []);
  for (const [name, change] of Object.entries(patch)) {
    if (change === null) made.delete(name);
    else made.set(name, patched(made.get(name), change));
  }
  return Object.fromEntries(made);
}

/** JSON with sorted members: equal values have equal texts. */
const textOf = (value: unknown): string =>
  JSON.stringify(value, (_name, inner: unknown) =>
    isObject(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );

/** The members without members of their own, by their names. A list is one value. */
function leavesOf(value: unknown): Map<string, unknown> {
  const found = new Map<string, unknown>();
  const visit = (names: string[], inner: unknown) => {
    const members = isObject(inner) ? Object.entries(inner) : [];
    if (members.length === 0) found.set(JSON.stringify(names), inner);
    for (const [name, member] of members) visit([...names, name], member);
  };
  if (isObject(value)) {
    for (const [name, member] of Object.entries(value)) visit([name], member);
  }
  return found;
}

/** A version of an entity, and the same without secrets. */
function versionOf(config: unknown) {
  const [leaves, masked] = [leavesOf(config), leavesOf(withoutSecrets(config))];
  const shown = (names: string): string | null => {
    if (!leaves.has(names)) return null;
    const text = textOf(masked.get(names));
    return text.length > VALUE_LENGTH_MAX ? `${text.slice(0, VALUE_LENGTH_MAX)}…` : text;
  };
  const value = (names: string) => (leaves.has(names) ? textOf(leaves.get(names)) : null);
  return { leaves, shown, value };
}

/**
 * The members in which what is stored now differs from what the patch makes of the version before.
 * Secrets are compared as they are and shown as masks.
 */
export function differencesOf(before: unknown, stored: unknown, patch: unknown): Difference[] {
  const given = configOf(before);
  const old = versionOf(given);
  const theirs = versionOf(configOf(stored));
  const mine = versionOf(patched(given, patch));
  const all = [...new Set([...theirs.leaves.keys(), ...mine.leaves.keys()])];
  // An object that lost its last member is no difference beside that member.
  const isEmptied = (names: string) =>
    all.some((other) => other.startsWith(`${names.slice(0, -1)},`));
  const differ = all.filter(
    (names) => mine.value(names) !== theirs.value(names) && !isEmptied(names),
  );
  return differ.sort().map((names) => {
    const isTheirs = theirs.value(names) !== old.value(names);
    const isMine = mine.value(names) !== old.value(names);
    return {
      member: (JSON.parse(names) as string[]).join('.'),
      theirs: theirs.shown(names),
      mine: mine.shown(names),
      by: isTheirs && isMine ? 'both' : isMine ? 'mine' : 'theirs',
    };
  });
}
