// The interface in another language: the pseudo-language, which shows what is not translated.
import assert from 'node:assert/strict';
import { base, call, go, logIn, open, SIZES, tooWide, WAIT, waitText } from '../pages.mjs';
import { saveEntities, SCREENS } from './screens.mjs';

const PSEUDO = '?lang=en-XA';

/**
 * Words on a page that are not of the table of texts, whose sentences stand in brackets, with where
 * they are. Not counted: what is not translated (identifiers, JSON), what names its own language
 * (sentences of the server), and times, which the browser writes.
 */
const foreignWords = (page) =>
  page.evaluate(() => {
    // The brackets of a sentence with links in it are in several texts.
    let depth = 0;
    const outside = (text) =>
      [...text]
        .filter((letter) => {
          if (letter === '⟦') depth += 1;
          if (letter === '⟧') depth -= 1;
          return depth === 0 && letter !== '⟧';
        })
        .join('')
        .trim();
    const isKept = (element) =>
      element.closest('[translate=no],body [lang],time,code,script,style,noscript') !== null;
    const found = new Set();
    const check = (text, element, what) => {
      const rest = outside(text);
      if (/\p{L}/u.test(rest) && !isKept(element)) {
        found.add(`${what} of ${element.tagName} .${element.getAttribute('class')}: ${rest}`);
      }
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) check(walker.currentNode.data, walker.currentNode.parentElement, 'text');
    if (depth !== 0) found.add(`${depth} brackets are open`);
    depth = 0;
    for (const name of ['aria-label', 'title', 'placeholder', 'alt', 'data-unit']) {
      // The label of a dialog is its title, which is checked as text.
      for (const element of document.querySelectorAll(`[${name}]:not(dialog)`)) {
        check(element.getAttribute(name), element, name);
      }
    }
    return [...found];
  });

/** Buttons, heads and labels whose words are cut off. */
const cutOff = (page) =>
  page.$$eval('button, h1, h2, h3, label, legend', (all) =>
    all
      .filter((it) => it.checkVisibility() && getComputedStyle(it).display !== 'inline')
      .filter((it) => it.scrollWidth > it.clientWidth + 1 && !it.closest('.hidden, .thead'))
      .map((it) => `${it.tagName} .${it.className}: ${it.textContent}`),
  );

/** What a page has that another language would not: its words, and room for them. */
async function faultsOf(page, at) {
  const wide = await tooWide(page);
  return [
    ...(await foreignWords(page)),
    ...(await cutOff(page)).map((it) => `cut off: ${it}`),
    ...(wide > 0 ? [`${wide} pixels wider than the window`] : []),
  ].map((fault) => `${at}: ${fault}`);
}

async function checkLanguage(browser, size) {
  await saveEntities();
  const { page, context, reports } = await open(browser, { size, hash: PSEUDO });
  await page.waitForSelector('input[name=key]', WAIT);
  const faults = await faultsOf(page, 'login');
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'en-XA');
  await logIn(page);
  await page.waitForSelector('.rail', WAIT);
  reports.length = 0;
  for (const [name, [hash, selector]] of Object.entries(SCREENS)) {
    await go(page, hash);
    await page.waitForSelector(`main ${selector}`, WAIT);
    faults.push(...(await faultsOf(page, name)));
  }
  // The layouter screen once more, with a pause and its reason.
  await call('PUT', '/layouter', { pause: { until: '1h', what: 'all', reason: 'why' } });
  await go(page, '#/overview');
  await page.waitForSelector('main .tile', WAIT);
  await go(page, '#/layouter');
  await page.waitForSelector('main .maintenance', WAIT);
  faults.push(...(await faultsOf(page, 'paused')));
  await call('PUT', '/layouter', { pause: null });
  if (faults.length) assert.fail(faults.join('\n'));
  assert.deepEqual(reports, []);
  await context.close();
}

export const CHECKS = {
  async 'a language is chosen for this browser, and English is what remains'(browser) {
    const { page, context, reports } = await open(browser, { hash: PSEUDO });
    await logIn(page);
    await page.waitForSelector('.rail', WAIT);
    reports.length = 0;
    await page.click('.who');
    await page.waitForSelector('dialog[open] select', WAIT);
    assert.deepEqual(await foreignWords(page), [], 'the menu');
    const offered = await page.$$eval('dialog option', (all) => all.map((it) => it.value));
    assert.deepEqual(offered, ['', 'en', 'en-XA']);
    const choose = async (locale, then) => {
      await page.select('dialog select', locale);
      await page.waitForSelector(`html[lang="${then}"] .rail`, WAIT);
    };
    await choose('en', 'en');
    const address = await page.evaluate(() => location.search);
    assert.equal(address, '', 'the address would say otherwise');
    await waitText(page, '.rail', 'Streams');
    await page.click('.who');
    await page.waitForSelector('dialog[open]', WAIT);
    assert.equal(await page.$('dialog select'), null, 'there is one language');
    const kept = () => page.evaluate(() => localStorage.getItem('weir.language'));
    assert.equal(await kept(), 'en');
    await page.goto(new URL(PSEUDO, base).href);
    await page.waitForSelector('html[lang="en-XA"] .rail', WAIT);
    await page.click('.who');
    await page.waitForSelector('dialog[open] select', WAIT);
    await choose('', 'en');
    assert.equal(await kept(), null);

    // An unknown language, and one that cannot be loaded, are English.
    await page.goto(new URL('?lang=xx', base).href);
    await page.waitForSelector('html[lang="en"] .rail', WAIT);
    assert.deepEqual(reports, []);
    await context.close();
    // A browser that has never loaded it: kept files are not requested.
    const fresh = await browser.createBrowserContext();
    const other = await fresh.newPage();
    await other.setRequestInterception(true);
    const refused = [];
    other.on('request', (request) => {
      const isLanguage = request.url().includes('/lang-');
      if (isLanguage) refused.push(request.url());
      void (isLanguage ? request.abort() : request.continue());
    });
    await other.goto(new URL(PSEUDO, base).href);
    await other.waitForSelector('input[name=key]', WAIT);
    assert.equal(await other.evaluate(() => document.documentElement.lang), 'en');
    assert.equal(refused.length, 1);
    await fresh.close();
  },
};
for (const size of Object.keys(SIZES)) {
  CHECKS[`all screens in the pseudo-language, ${size}`] = (browser) => checkLanguage(browser, size);
}
