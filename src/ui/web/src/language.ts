// Languages: what one consists of, which one a browser gets, and how its texts are read.
//
// English is part of the program. Every other language is a file of its own in `languages`, named
// by its locale, which is loaded only where it is chosen.
import { en } from './languages/en';

/** A text for each plural category of the language; `=0` is for none at all. */
export type Forms = { other: string } & Partial<Record<Intl.LDMLPluralRule | '=0', string>>;
export type TextKey = keyof typeof en;
/** The texts of a language: the compiler refuses a missing key and an unknown one. */
export type Texts = Record<TextKey, string | Forms>;

export interface Language {
  locale: string;
  texts: Texts;
}
/** What the file of a language exports by default. */
export type LanguageFile = (english: Texts) => Language;

export interface OfferedLanguage {
  locale: string;
  /** Its name in itself. */
  name: string;
  /** It is offered only by `?lang=`. */
  isForTests?: boolean;
}

/** The languages that there are. */
export const LANGUAGES: OfferedLanguage[] = [
  { locale: 'en', name: 'English' },
  { locale: 'en-XA', name: 'Éñglîšĥ', isForTests: true },
];
const ENGLISH: Language = { locale: 'en', texts: en };

/** What decides about the language of a browser. */
export interface WantedLanguage {
  /** Named by the address of the page. */
  asked: string | null;
  /** Chosen in this browser before. */
  kept: string | null;
  /** What the browser prefers, the best first. */
  preferred: readonly string[];
}

const baseOf = (locale: string) => locale.split('-')[0];

/** The locale of a browser: what the address names, what was chosen, what it prefers, English. */
export function chosenLocale(
  languages: OfferedLanguage[],
  { asked, kept, preferred }: WantedLanguage,
): string {
  const named = [asked, kept].find((name) => languages.some(({ locale }) => locale === name));
  if (named) return named;
  const offered = languages.filter((it) => !it.isForTests).map(({ locale }) => locale);
  for (const name of preferred) {
    const near = offered.find((locale) => baseOf(locale) === baseOf(name));
    const found = offered.find((locale) => locale === name) ?? near;
    if (found) return found;
  }
  return ENGLISH.locale;
}

/** The language of a locale; English if its file cannot be loaded. */
export async function loaded(locale: string): Promise<Language> {
  if (locale === ENGLISH.locale) return ENGLISH;
  try {
    const address = new URL(`lang-${locale}.js`, document.baseURI).href;
    const file = (await import(address)) as { default: LanguageFile };
    return file.default(en);
  } catch {
    return ENGLISH;
  }
}

/** The rules of a locale. */
export interface PluralRules {
  select: Intl.PluralRules;
  number: Intl.NumberFormat;
}

/**
 * The pieces of a text with its places filled, in the order of the language. Numbers are formatted;
 * `n` selects the plural.
 */
export function piecesOf<Value>(
  of: string | Forms,
  values: Record<string, Value | number>,
  { select, number }: PluralRules,
): (Value | string)[] {
  let text = of;
  if (typeof text === 'object') {
    const n = Number(values.n ?? 0);
    text = (n === 0 ? text['=0'] : undefined) ?? text[select.select(n)] ?? text.other;
  }
  return text.split(/(\{\w+\})/).map((part) => {
    if (!part.startsWith('{')) return part;
    const value = values[part.slice(1, -1)] ?? '';
    return typeof value === 'number' ? number.format(value) : value;
  });
}

export const textOf = (
  of: string | Forms,
  values: Record<string, string | number>,
  rules: PluralRules,
): string => piecesOf<string>(of, values, rules).join('');
