// Secrets are only written: a secret stays as it is, is replaced, or is removed.
import { checkedPatch } from './changes';
import { parse } from './json';
import { t } from './text';

export type SecretAction = 'keep' | 'new' | 'remove';

export interface SecretChange {
  action: SecretAction;
  /** What was typed, of the action `new`. */
  text: string;
}

export const UNCHANGED: SecretChange = { action: 'keep', text: '' };

/** The new value of a secret; `null` removes it, `undefined` leaves it as it is. */
export function secretOf({ action, text }: SecretChange): string | null | undefined {
  if (action === 'keep') return undefined;
  if (action === 'remove') return null;
  if (text === '') throw new Error(t('secret.empty'));
  return text;
}

/**
 * A merge patch with a secret in it. The text stays as it is typed, with all digits of its integers;
 * one that has the member itself is refused, because one of the two would be lost.
 */
export function withSecret(patch: string, member: string, change: SecretChange): string {
  const value = secretOf(change);
  if (value === undefined) return patch;
  if (Object.hasOwn(parse(checkedPatch(patch)) as object, member)) {
    throw new Error(t('secret.twice', { name: member }));
  }
  const given = patch.trim().slice(1, -1).trim();
  const added = `${JSON.stringify(member)}:${JSON.stringify(value)}`;
  return `{${added}${given && `,${given}`}}`;
}
