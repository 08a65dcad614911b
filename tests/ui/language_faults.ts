// What is wrong with the texts of a language, which the compiler does not see.
import type { Forms, Language, TextKey, Texts } from './src/language';

const PLACE = /\{\w+\}/g;
const placesOf = (text: string) => new Set(text.match(PLACE));
const formsOf = (text: string | Forms): Partial<Record<string, string>> =>
  typeof text === 'string' ? { other: text } : text;

/** What is wrong with a language beside English; empty if nothing is. */
export function faultsOf({ locale, texts }: Language, english: Texts): string[] {
  const faults: string[] = [];
  const missing = Object.keys(english).filter((key) => !Object.hasOwn(texts, key));
  const unknown = Object.keys(texts).filter((key) => !Object.hasOwn(english, key));
  faults.push(...missing.map((key) => `${key}: missing`));
  faults.push(...unknown.map((key) => `${key}: unknown`));
  const categories = new Intl.PluralRules(locale).resolvedOptions().pluralCategories;
  for (const key of Object.keys(english) as TextKey[]) {
    const text = texts[key];
    if (text === undefined) continue;
    const forms = formsOf(text);
    const given = placesOf(formsOf(english[key]).other ?? '');
    if (typeof text === 'object') {
      const absent = categories.filter((category) => forms[category] === undefined);
      faults.push(...absent.map((category) => `${key}: no form ${category}`));
      const allowed: string[] = [...categories, '=0'];
      const extra = Object.keys(forms).filter((form) => !allowed.includes(form));
      faults.push(...extra.map((form) => `${key}: the language has no form ${form}`));
    }
    for (const [form, words = ''] of Object.entries(forms)) {
      const places = placesOf(words);
      const extra = [...places].filter((place) => !given.has(place));
      // A number that is in the words of a form need not be repeated.
      const isCounted = typeof text === 'object' && form !== 'other';
      const lost = [...given].filter(
        (place) => !places.has(place) && !(isCounted && place === '{n}'),
      );
      faults.push(...extra.map((place) => `${key}, ${form}: ${place} is not filled`));
      faults.push(...lost.map((place) => `${key}, ${form}: ${place} is missing`));
      if (words === '') faults.push(`${key}, ${form}: empty`);
    }
  }
  return faults;
}
