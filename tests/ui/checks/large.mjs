// The budgets of the interface with 100,000 streams on 200 streamers. Requests, bytes, elements and
// memory are counted; nothing is timed.
import assert from 'node:assert/strict';
import {
  call,
  checkFirstScreen,
  clickOn,
  count,
  ELEMENTS_MAX,
  go,
  loggedIn,
  names,
  noDialog,
  textOf,
  tooWide,
  WAIT,
  waitText,
} from '../pages.mjs';

const STREAMS = 100_000;
const STREAMERS = 200;
const ROWS = 5000;
const PAGE_ROWS = 100;
const HEAP_BYTES_MAX = 25 * 1024 * 1024;
/** An answer to a screen, compressed. */
const ANSWER_BYTES_MAX = 64 * 1024;

/** Screens and what they show when their data is there. */
const SCREENS = {
  overview: ['#/overview', '.tile'],
  streamers: ['#/streamers', '.tbody .name'],
  grid: ['#/streamers?view=grid&group=site', '.cell'],
  streamer: ['#/streamers/edge-007.example.com', '.t-on-streamer .tbody .name'],
  streams: ['#/streams', '.tbody .name'],
  found: ['#/streams?q=gate-0500', '.tbody .name'],
  stream: ['#/streams/cam%2Fcity-07%2Fgate-000007', '.json'],
  events: ['#/events', '.event'],
  settings: ['#/settings', '.settings li'],
};

/** The answers of the API to a page: their paths and compressed sizes. */
async function answersOf(page) {
  const session = await page.createCDPSession();
  await session.send('Network.enable');
  const [urls, answers] = [new Map(), []];
  session.on('Network.requestWillBeSent', ({ requestId, request }) =>
    urls.set(requestId, request.url),
  );
  session.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => {
    const [, path] = urls.get(requestId)?.split('/api/v3') ?? [];
    if (path) answers.push({ path, bytes: encodedDataLength });
  });
  return answers;
}

async function heapBytes(page) {
  const session = await page.createCDPSession();
  await session.send('HeapProfiler.enable');
  await session.send('HeapProfiler.collectGarbage');
  const { usedSize } = await session.send('Runtime.getHeapUsage');
  await session.detach();
  return usedSize;
}

const elementsOf = (page) => page.$$eval('*', (all) => all.length);

export const CHECKS = {
  'the first screen of a large cluster is small': checkFirstScreen,

  async 'screens of a large cluster are bounded'(browser) {
    const { page, context, reports } = await loggedIn(browser);
    const answers = await answersOf(page);
    for (const [name, [hash, selector]] of Object.entries(SCREENS)) {
      await go(page, hash);
      await page.waitForSelector(`main ${selector}`, WAIT);
      const elements = await elementsOf(page);
      assert.ok(elements <= ELEMENTS_MAX, `${name}: ${elements} elements`);
      assert.equal(await tooWide(page), 0, name);
      if (name === 'overview') await waitText(page, '.tile .big', count(STREAMS));
      if (name === 'streamers') await waitText(page, '.bar-top h1 small', count(STREAMERS));
      if (name === 'streams') await waitText(page, '.bar-top h1 small', count(STREAMS));
      if (name === 'found') await waitText(page, '.bar-top h1 small', '100');
    }
    const large = answers.filter(({ bytes }) => bytes > ANSWER_BYTES_MAX);
    assert.deepEqual(large, []);
    assert.ok(answers.length >= Object.keys(SCREENS).length, `${answers.length} answers`);
    // The layouter is off, so it explains nothing: the browser reports what is refused.
    assert.deepEqual(
      reports.filter((report) => !report.includes('status of 409')),
      [],
    );
    await context.close();
  },

  async 'a stream is placed by hand while the layouter is off'(browser) {
    const path = '/streams/cam%2Fcity-07%2Fgate-000007';
    const { page, context } = await loggedIn(browser, { hash: `#${path}` });
    await waitText(page, '.facts', 'edge-007');
    await clickOn(page, 'Move');
    await page.waitForSelector('dialog[open] input[name=ingest]', WAIT);
    await page.$eval('dialog input[name=ingest]', (input) => input.select());
    await page.type('dialog input[name=ingest]', 'edge-199.example.com');
    const button = 'dialog[open] footer button.primary';
    await page.click(button);
    await waitText(page, 'dialog .verdicts', 'The layouter is off');
    await page.waitForSelector(`${button}:not(:disabled)`, WAIT);
    await page.click(button);
    await noDialog(page);
    await waitText(page, '.facts', 'edge-199');
    assert.equal((await call('GET', path)).layout.ingest, 'edge-199.example.com');
    // Nothing moves, so there is no question before it is disabled, either.
    await clickOn(page, 'Disable');
    await waitText(page, '.bar-top button', 'Enable');
    assert.equal(await page.$('dialog'), null);
    assert.equal((await call('GET', path)).disabled, true);
    await context.close();
  },

  async 'scrolling through 5,000 streams reads every page once and keeps few'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams' });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const answers = await answersOf(page);
    const shown = async () => Number((await textOf(page, '.foot')).split(' ')[0].replace(',', ''));
    const seen = new Set();
    let elementsMax = 0;
    while ((await shown()) < ROWS) {
      const before = await shown();
      await page.$eval('.t-streams', (table) => table.scrollTo(0, table.scrollHeight));
      await page.waitForFunction(
        (rows) => {
          const text = document.querySelector('.foot').textContent.split(' ')[0];
          return Number(text.replace(',', '')) > rows && !document.querySelector('.tr.ghost');
        },
        WAIT,
        before,
      );
      for (const name of await names(page)) seen.add(name);
      elementsMax = Math.max(elementsMax, await elementsOf(page));
    }
    const pages = answers.filter(({ path }) => path.includes('cursor='));
    const distinct = new Set(pages.map(({ path }) => path));
    const bytes = pages.reduce((sum, it) => sum + it.bytes, 0);
    const heap = await heapBytes(page);
    console.log(
      `  ${pages.length} pages, ${bytes} bytes, ${elementsMax} elements, heap ${heap} bytes`,
    );
    assert.ok(seen.size >= ROWS / 5, `${seen.size} rows were drawn`);
    assert.equal(distinct.size, pages.length, 'no page is read twice');
    assert.ok(pages.length <= ROWS / PAGE_ROWS + 1, `${pages.length} pages`);
    assert.ok(Math.max(...pages.map((it) => it.bytes)) <= ANSWER_BYTES_MAX);
    assert.ok(elementsMax <= ELEMENTS_MAX, `${elementsMax} elements`);
    assert.ok(heap <= HEAP_BYTES_MAX, `${heap} bytes of heap`);
    assert.deepEqual(reports, []);
    // What was dropped is read again on the way back.
    await page.$eval('.t-streams', (table) => table.scrollTo(0, 0));
    await waitText(page, '.t-streams .tbody .name', 'gate-000000');
    await context.close();
  },
};
