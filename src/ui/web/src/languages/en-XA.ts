// The pseudo-language of tests: English with accents, in brackets, 40 % longer. What has no
// brackets on a page is not in the table of texts, and what has no room is too narrow for others.
import type { Forms, LanguageFile, Texts } from '../language';

const LONGER = 1.4;
const [PLAIN, ACCENTED] = ['aceginorstuyACEGINORSTUY', 'àçéĝîñöŕšţûýÀÇÉĜÎÑÖŔŠŢÛÝ'];
const VOWELS = 'aeiouAEIOU';

/** Letters with accents, vowels twice, which makes words longer. */
function accented(words: string): string {
  const letters = [...words].map((letter) => {
    const at = PLAIN.indexOf(letter);
    const other = at < 0 ? letter : (ACCENTED[at] ?? letter);
    return VOWELS.includes(letter) ? other + other.toLowerCase() : other;
  });
  return letters.join('');
}

export function pseudo(text: string): string {
  const parts = text.split(/(\{\w+\})/);
  const longer = parts.map((part) => (part.startsWith('{') ? part : accented(part))).join('');
  const rest = Math.ceil(text.length * LONGER) - longer.length;
  return `⟦${longer}${'~'.repeat(Math.max(0, rest))}⟧`;
}

const formsOf = (forms: Forms): Forms =>
  Object.fromEntries(Object.entries(forms).map(([form, text]) => [form, pseudo(text)])) as Forms;

const language: LanguageFile = (english) => {
  const texts = Object.entries(english).map(([key, text]) => [
    key,
    typeof text === 'string' ? pseudo(text) : formsOf(text),
  ]);
  return { locale: 'en-XA', texts: Object.fromEntries(texts) as Texts };
};
export default language;
