// The sentences of the interface in the language of this browser.
//
// The language is known before any module that imports this one runs, so that a text may stand
// anywhere, also in a table beside its module.
import {
  chosenLocale,
  LANGUAGES,
  loaded,
  piecesOf,
  textOf,
  type PluralRules,
  type TextKey,
} from './language';
import { keep, kept } from './store';

export type { TextKey } from './language';

const wanted = {
  // Node.js has neither.
  asked: new URLSearchParams(globalThis.location?.search).get('lang'),
  kept: kept('weir.language'),
  preferred: globalThis.navigator?.languages ?? [],
};
const { locale: chosen, texts } = await loaded(chosenLocale(LANGUAGES, wanted));

/** The locale of numbers and times. */
export const locale = chosen;
/** The languages that the menu offers. */
export const offered = LANGUAGES.filter((it) => !it.isForTests || it.locale === locale);
/** Whether this browser was given its language by its user. */
export const isLanguageChosen = [wanted.asked, wanted.kept].includes(locale);

/** Shows the page in a language, now and later; `null`: in the one that the browser prefers. */
export function chooseLanguage(name: string | null): void {
  keep('weir.language', name);
  const address = new URL(location.href);
  address.searchParams.delete('lang');
  // Another address loads the page by itself; the same one does not.
  if (address.href === location.href) location.reload();
  else location.replace(address.href);
}

const rules: PluralRules = {
  select: new Intl.PluralRules(locale),
  number: new Intl.NumberFormat(locale),
};

/** Whether there is a text for a key that comes from the server. */
export const hasText = (key: string): key is TextKey => Object.hasOwn(texts, key);

/** The text of a key with its places filled. Numbers are formatted; `n` selects the plural. */
export const t = (key: TextKey, values: Record<string, string | number> = {}): string =>
  textOf(texts[key], values, rules);

/** The pieces of a text whose places have elements, for a sentence with links in it. */
export const pieces = <Value>(key: TextKey, values: Record<string, Value | number>) =>
  piecesOf<Value>(texts[key], values, rules);

type CodePrefix =
  | 'reason'
  | 'cause'
  | 'state'
  | 'status'
  | 'setting'
  | 'role'
  | 'budget'
  | 'kind'
  | 'mode';

/** The text of a code of the API; a code that is not known here is shown in words. */
export function code(prefix: CodePrefix, of: string): string {
  const key = `${prefix}.${of}`;
  return hasText(key) ? t(key) : of.replaceAll('_', ' ');
}
