// The interface in a real browser, against a running server with a fixture.
//
//   node browser.mjs URL KEY
//
// Prints one line per check and fails with the first one that does not hold. `RESTART` on stdout
// requests a restart of the server from whoever started this, who answers with a line.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer, request as httpRequest } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import puppeteer from 'puppeteer-core';

const [base, key] = process.argv.slice(2);
const API = new URL('/central/api/v3', base).href;
const WAIT = { timeout: 60_000 };
const ELEMENTS_MAX = 2000;
const FIRST_SCREEN = { requests: 24, fileBytes: 60 * 1024, apiBytes: 12 * 1024 };
const SIZES = {
  wide: { width: 1440, height: 900 },
  narrow: { width: 390, height: 844, isMobile: true, hasTouch: true },
};
/** Their addresses, and what they show when their data is there. */
const SCREENS = {
  overview: ['#/overview', '.tile'],
  streamers: ['#/streamers', '.tbody .name'],
  grid: ['#/streamers?view=grid&group=site', '.cell'],
  streamer: ['#/streamers/edge-1.example.com', '.json'],
  cordoned: ['#/streamers/edge-2.example.com', '.maintenance'],
  streams: ['#/streams', '.tbody .name'],
  stream: ['#/streams/cam%2Fgraz%2Fgate-1', '.json'],
  events: ['#/events', '.event'],
  whatif: ['#/whatif', '.question'],
  lost: ['#/whatif?kind=lose&hosts=edge-1.example.com', '.answer .tile'],
  moved: ['#/whatif?kind=stream&name=cam%2Fgraz%2Fgate-1&patch={"disabled":true}', '.answer .tile'],
  layouter: ['#/layouter', '.tile'],
  more: ['#/more', '.screens a'],
  agents: ['#/agents', '.tbody .name'],
  tokens: ['#/tokens', '.tbody .name'],
  token: ['#/tokens/of-screens', 'dialog textarea'],
  auth: ['#/auth', '.tbody .name'],
  balancers: ['#/balancers', '.tbody .name'],
  settings: ['#/settings', '.settings li'],
};
const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const axe = readFileSync(
  fileURLToPath(import.meta.resolve('axe-core')).replace(/axe\.js$/, 'axe.min.js'),
  'utf8',
);

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function restartServer() {
  console.log('RESTART');
  const { value } = await lines.next();
  assert.equal(value, 'restarted');
}

/** A request to the API beside the page. */
async function call(method, path, body) {
  const response = await fetch(API + path, {
    method,
    headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return response.status === 204 ? null : response.json();
}

/** Reads the streams of a streamer as it does: two reads are a sign of life. */
async function readStreams(path) {
  for (let read = 0; read < 2; read += 1) await call('GET', `${path}/streams`);
}

const administrator = { Authorization: `Bearer ${key}` };

/** The status of a stream, read beside the page. */
async function statusOf(name) {
  const path = `${API}/streams/${encodeURIComponent(name)}`;
  return (await fetch(path, { headers: administrator })).status;
}

/** A reverse proxy that serves the server below a path, which it removes from requests. */
async function proxyBelow(prefix) {
  const outside = [];
  const { hostname, port } = new URL(base);
  const proxy = createServer((incoming, outgoing) => {
    if (!incoming.url.startsWith(`${prefix}/`)) {
      outside.push(incoming.url);
      outgoing.writeHead(404).end();
      return;
    }
    const { method, headers } = incoming;
    const path = incoming.url.slice(prefix.length);
    const forwarded = httpRequest({ hostname, port, method, path, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode, answer.headers);
      answer.pipe(outgoing);
    });
    forwarded.on('error', () => outgoing.destroy());
    outgoing.on('close', () => forwarded.destroy());
    incoming.pipe(forwarded);
  });
  await new Promise((done) => proxy.listen(0, '127.0.0.1', done));
  const close = () => {
    proxy.close();
    proxy.closeAllConnections();
  };
  return { address: `http://127.0.0.1:${proxy.address().port}${prefix}/`, outside, close };
}

/** A page in a context of its own, and what its console reported. */
async function open(browser, { size = 'wide', theme = 'light', hash = '', at = base } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT.timeout);
  await page.setViewport(SIZES[size]);
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }]);
  const reports = [];
  page.on('console', (message) => {
    if (['error', 'warn', 'warning'].includes(message.type())) {
      reports.push(`${message.type()}: ${message.text()}`);
    }
  });
  page.on('pageerror', (error) => reports.push(`exception: ${error.message}`));
  await page.goto(new URL(hash, at).href, { waitUntil: 'domcontentloaded' });
  return { page, context, reports };
}

async function logIn(page, credential = key) {
  await page.waitForSelector('input[name=key]', WAIT);
  await page.type('input[name=key]', credential);
  await page.click('form button.primary');
}

/** A logged-in page; what the console reported of the login is forgotten. */
async function loggedIn(browser, options) {
  const opened = await open(browser, options);
  await logIn(opened.page, options?.credential);
  await opened.page.waitForSelector('.rail', WAIT);
  opened.reports.length = 0;
  return opened;
}

/** What a promise gives, within the bound of all waits. */
async function within(promise, what) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(
      () => fail(new Error(`not within ${WAIT.timeout} ms: ${what}`)),
      WAIT.timeout,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

const go = (page, hash) => page.evaluate((to) => void (location.hash = to), hash);
const textOf = (page, selector) =>
  page.$eval(selector, (element) => element.textContent.replace(/\s+/g, ' ').trim());
async function waitText(page, selector, text) {
  const found = page.waitForFunction(
    (at, part) => [...document.querySelectorAll(at)].some((it) => it.textContent.includes(part)),
    WAIT,
    selector,
    text,
  );
  try {
    await found;
  } catch (error) {
    const seen = await page.$$eval(selector, (all) => all.map((it) => it.textContent));
    const alerts = await page.$$eval('[role=alert]', (all) => all.map((it) => it.textContent));
    const saw = JSON.stringify({ seen, alerts }).slice(0, 2000);
    throw new Error(`no "${text}" in ${selector}: ${saw}`, { cause: error });
  }
}
const names = (page) =>
  page.$$eval('.t-streams .tbody [data-col=name] .name', (all) => all.map((a) => a.title));

/** What a page has that not everybody can use. */
async function barriers(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(
    (runOnly) => globalThis.axe.run(document, { runOnly }),
    RULES,
  );
  return violations.map((it) => `${it.id}: ${it.nodes.map((node) => node.target).join(', ')}`);
}

const tooWide = (page) =>
  page.evaluate(() => Math.max(0, document.documentElement.scrollWidth - innerWidth));

/** A click on the button of the page, or of its dialog, that has the word. */
const clickOn = (page, word, at = '.bar-top button') =>
  page.$$eval(
    at,
    (all, text) => all.find((it) => it.textContent.includes(text) && !it.disabled).click(),
    word,
  );

const noDialog = (page) => page.waitForFunction(() => !document.querySelector('dialog'), WAIT);

const typePatch = (page, text) =>
  page.$eval(
    'dialog textarea',
    (area, value) => {
      area.value = value;
      area.dispatchEvent(new Event('input', { bubbles: true }));
    },
    text,
  );

/** The previews that a page requested and was sent, in their order. */
function answersOf(page) {
  const arrived = [];
  let wake = () => {};
  page.on('response', async (response) => {
    const request = response.request();
    if (request.method() !== 'POST' || !request.url().includes('preview')) return;
    const path = new URL(request.url()).pathname.replace('/central/api/v3', '');
    const body = JSON.parse(request.postData());
    // A page that is left has no body of its last answer.
    const answer = await response.json().catch(() => null);
    if (answer) arrived.push({ path, body, answer });
    wake();
  });
  const next = async (path) => {
    for (;;) {
      const at = arrived.findIndex((it) => it.path === path);
      if (at >= 0) return arrived.splice(at, 1)[0];
      const more = new Promise((resolve) => (wake = resolve));
      await within(more, `a preview of ${path} beside ${JSON.stringify(arrived)}`);
    }
  };
  return { next };
}

const count = (n) => new Intl.NumberFormat('en').format(n);
const tiles = (page) =>
  page.$$eval('.answer .tile .big', (all) => all.map((it) => it.textContent));
/** The drawn loads: hostname, now, then, change. */
const loadRows = (page) =>
  page.$$eval('.loads tbody tr', (all) =>
    all.map((row) => [
      row.querySelector('a').title,
      ...[...row.querySelectorAll('.num')].map((it) => it.firstChild.textContent),
    ]),
  );
const rowsOfLoads = (changes) =>
  [...changes]
    .sort((a, b) => Math.abs(b.delta) - Math.abs(a.delta) || (a.hostname < b.hostname ? -1 : 1))
    .slice(0, 50)
    .map(({ hostname, before, after, delta }) => [
      hostname,
      count(before),
      count(after),
      `${delta > 0 ? '+' : ''}${count(delta)}`,
    ]);

const CHECKS = {
  async 'login: refused, then accepted, then logged out'(browser) {
    const { page, context } = await open(browser);
    await logIn(page, 'wrong');
    await waitText(page, '[role=alert]', 'Invalid credentials');
    await page.$eval('input[name=key]', (input) => void (input.value = ''));
    await logIn(page);
    await page.waitForSelector('.rail', WAIT);
    const visible = await page.evaluate(() => document.cookie);
    assert.equal(visible, '', 'the cookie is hidden from scripts');
    const kept = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }));
    assert.ok(!kept.includes(key), 'the key is stored nowhere');
    await page.reload();
    await page.waitForSelector('.rail', WAIT);
    await page.click('.who');
    await page.waitForSelector('dialog[open]', WAIT);
    await page.evaluate(() => {
      const buttons = [...document.querySelectorAll('dialog button')];
      buttons.find((button) => button.textContent === 'Log out').click();
    });
    await page.waitForSelector('input[name=key]', WAIT);
    await page.reload();
    await page.waitForSelector('input[name=key]', WAIT);
    await context.close();
  },

  async 'a link leads through the login to its screen'(browser) {
    const hash = '#/streams?q=berlin&enabled=yes';
    const { page, context } = await open(browser, { hash });
    await logIn(page);
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    assert.equal(await page.evaluate(() => location.hash), hash);
    assert.ok((await names(page)).every((name) => name.includes('berlin')));
    await context.close();
  },

  async 'a number on the overview is the count of the list behind it'(browser) {
    const { page, context, reports } = await loggedIn(browser);
    await page.waitForSelector('.needs li a', WAIT);
    const tiles = await page.$$eval('a.tile', (all) =>
      all.map((tile) => [tile.href, tile.querySelector('.big').textContent]),
    );
    const needs = await page.$$eval('.needs li > a[href*="placed"]', (all) =>
      all.map((need) => [need.href, need.textContent.split(' ')[0]]),
    );
    assert.equal(tiles.length, 2);
    for (const [to, number] of [...tiles, ...needs]) {
      await go(page, new URL(to).hash);
      await waitText(page, '.bar-top h1 small', number);
      assert.equal(await textOf(page, '.bar-top h1 small'), number, to);
    }
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'search finds a streamer and a stream'(browser) {
    const { page, context, reports } = await loggedIn(browser);
    await page.waitForSelector('.tile', WAIT);
    await page.keyboard.press('/');
    await page.keyboard.type('graz/gate-1');
    await waitText(page, '#found [role=option]', 'cam/graz/gate-1');
    await page.keyboard.press('Enter');
    await waitText(page, 'main h1', 'cam/graz/gate-1');
    await page.keyboard.press('/');
    await page.keyboard.type('edge-1');
    await waitText(page, '#found [role=option]', 'edge-1.example.com');
    await page.keyboard.press('Enter');
    await waitText(page, 'main h1', 'edge-1.example.com');
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'filters are in the address, and Back removes them'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams' });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const all = await textOf(page, '.bar-top h1 small');
    const select = '.chips .select:nth-of-type(2) select';
    await page.select(select, 'no');
    await page.waitForFunction(
      (before) => {
        const count = document.querySelector('.bar-top h1 small').textContent;
        return !['–', before].includes(count);
      },
      WAIT,
      all,
    );
    assert.match(await page.evaluate(() => location.hash), /enabled=no/);
    const expected = await call('GET', '/streams?disabled=true&limit=1&select=name');
    const shown = await textOf(page, '.bar-top h1 small');
    assert.equal(shown, String(expected.estimated_count), 'the count is that of the API');
    await page.goBack();
    await page.waitForFunction(
      (before) => document.querySelector('.bar-top h1 small').textContent === before,
      WAIT,
      all,
    );
    assert.equal(await page.$eval(select, (element) => element.value), '');
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'a long list draws the rows in view only'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams' });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const seen = new Set(await names(page));
    for (let step = 0; step < 40 && seen.size < 300; step += 1) {
      await page.$eval('.t-streams', (table) => table.scrollBy(0, table.clientHeight));
      await page.waitForFunction(() => !document.querySelector('.tr.ghost'), WAIT);
      for (const name of await names(page)) seen.add(name);
      const elements = await page.$$eval('*', (all) => all.length);
      assert.ok(elements <= ELEMENTS_MAX, `${elements} elements`);
    }
    assert.ok(seen.size >= 300, `${seen.size} rows were seen`);
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'keys move through a table and open a row'(browser) {
    const { page, context, reports } = await loggedIn(browser);
    await page.waitForSelector('.tile', WAIT);
    await page.keyboard.press('g');
    await page.keyboard.press('s');
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const [, second] = await names(page);
    await page.focus('.t-streams');
    await page.keyboard.press('j');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('x');
    await waitText(page, '.bulk', '1 selected');
    await page.keyboard.press('Enter');
    await waitText(page, 'main h1', second);
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'markup in a title stays text'(browser) {
    const title = '<img src=x onerror="document.title=1"><b>x</b>';
    await call('PUT', '/streams/markup', { title });
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams/markup' });
    await waitText(page, '.facts-line .title', title);
    await go(page, '#/streams?q=markup');
    await waitText(page, '.t-streams .td', title);
    assert.equal(await page.$$eval('main .title b, main .td b, main img', (all) => all.length), 0);
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'an integer of 64 bits keeps all its digits'(browser) {
    const integer = '9007199254740993';
    const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' };
    const body = `{"position":${integer}}`;
    const saved = await fetch(`${API}/streams/integers`, { method: 'PUT', headers, body });
    assert.equal(saved.status, 200);
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams/integers' });
    await waitText(page, 'pre.json', integer);
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'an edit sends the integers that are typed'(browser) {
    await call('PUT', '/streams/integers-edited', { title: 'x' });
    const hash = '#/streams/integers-edited';
    const { page, context, reports } = await loggedIn(browser, { hash });
    await waitText(page, '.facts-line .title', 'x');
    const sent = [];
    page.on('request', (request) => {
      if (request.postData()?.includes('position')) sent.push(request.postData());
    });
    await page.click('.bar-top button.primary');
    await page.waitForSelector('dialog textarea', WAIT);
    const patch = '{"position": 9007199254740993}';
    await typePatch(page, patch);
    await page.click('dialog footer button:nth-of-type(2)');
    await waitText(page, 'dialog .lead', 'No stream would move.');
    await page.click('dialog footer button.primary');
    await waitText(page, 'pre.json', 'position');
    assert.deepEqual(sent, [patch, patch], 'the preview and the save');
    const saved = await fetch(`${API}/streams/integers-edited`, { headers: administrator });
    assert.match(await saved.text(), /"position":9007199254740993\b/);
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'a deleted stream is not made again'(browser) {
    await call('PUT', '/streams/gone-shown', { title: 'shown' });
    const { page, context } = await loggedIn(browser, { hash: '#/streams/gone-shown' });
    await waitText(page, '.facts-line .title', 'shown');
    const conditions = [];
    page.on('request', (request) => {
      if (request.method() === 'PUT') conditions.push(request.headers()['if-match']);
    });
    const toggle = '.bar-top button:not(.primary)';
    await page.click(toggle);
    await waitText(page, toggle, 'Enable');
    await call('DELETE', '/streams/gone-shown');
    await page.click(toggle);
    await waitText(page, 'main .failure', 'was deleted meanwhile');
    assert.equal(await statusOf('gone-shown'), 404);
    assert.equal(conditions.length, 2);
    for (const condition of conditions) assert.match(condition, /^"/, 'the version that is shown');

    for (const name of ['gone-a', 'gone-b', 'gone-c']) {
      await call('PUT', `/streams/${name}`, { title: 'listed' });
    }
    await go(page, '#/streams?q=gone-');
    await page.waitForFunction(
      () => document.querySelectorAll('.t-streams .tbody input[type=checkbox]').length === 3,
      WAIT,
    );
    for (const [picked, name] of ['gone-a', 'gone-b', 'gone-c'].entries()) {
      await page.click(`.t-streams .tbody input[aria-label="Select ${name}"]`);
      await waitText(page, '.bulk', `${picked + 1} selected`);
    }
    await call('DELETE', '/streams/gone-b');
    await page.click('.bulk button');
    await page.waitForSelector('dialog[open] footer button.primary', WAIT);
    await page.click('dialog[open] footer button.primary');
    await waitText(page, 'dialog .failure', 'gone-b was deleted meanwhile. Nothing was changed.');
    assert.equal(await statusOf('gone-b'), 404);
    const { disabled } = await call('GET', '/streams/gone-a');
    assert.ok(!disabled, 'all or none');
    // The dialog goes on with those that exist.
    await page.click('dialog[open] footer button.primary');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    assert.equal(await statusOf('gone-b'), 404);
    for (const name of ['gone-a', 'gone-c']) {
      assert.equal((await call('GET', `/streams/${name}`)).disabled, true, name);
    }
    await context.close();
  },

  async 'all streams that match are counted, and those are changed'(browser) {
    const all = ['1', '2', '3'].map((number) => `every/<i>${number}`);
    await call('PUT', '/streams/batch', all.map((name) => ({ name, title: 'every one' })));
    await call('PUT', '/streams/every-other', { title: 'not this one' });
    const read = async (name) => call('GET', `/streams/${encodeURIComponent(name)}`);
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams?q=every/' });
    const made = [];
    page.on('request', (request) => {
      if (request.url().includes('apply=true')) made.push(request.postData());
    });
    const rows = '.t-streams .tbody input[type=checkbox]';
    const begin = async (word) => {
      await page.waitForFunction(
        (all) => document.querySelectorAll(all).length === 3 && !document.querySelector('dialog'),
        WAIT,
        rows,
      );
      await page.click(rows);
      await page.waitForSelector('.bulk .all', WAIT);
      await page.click('.bulk .all');
      await waitText(page, '.bulk', 'All 3 that match');
      await page.click(`.bulk ::-p-text(${word})`);
      await page.waitForSelector('dialog[open]', WAIT);
    };
    const button = 'dialog[open] footer button:nth-of-type(2)';
    const confirm = async (word) => {
      await waitText(page, button, word);
      await page.click(button);
    };
    await begin('Disable');
    await waitText(page, 'dialog .names', all[2]);
    // What matches by now is another set: nothing is changed, and it can be counted again.
    await call('PUT', `/streams/${encodeURIComponent(all[0])}`, { comment: 'meanwhile' });
    await confirm('Disable: 3 streams');
    await waitText(page, 'dialog .failure', 'Other streams match');
    assert.equal((await read(all[1])).disabled ?? false, false);
    await confirm('Count them');
    await confirm('Disable: 3 streams');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    for (const name of all) assert.equal((await read(name)).disabled, true, name);
    assert.notEqual((await read('every-other')).disabled, true);

    await begin('Set label');
    await page.type('dialog input[name=value]', 'site=graz-1');
    await confirm('Count them');
    await confirm('Set label: 3 streams');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    assert.deepEqual((await read(all[2])).labels, { site: 'graz-1' });

    await begin('Move');
    await page.type('dialog input[name=value]', 'nobody.example.com');
    await confirm('Count them');
    await waitText(page, 'dialog .failure', '/move/ingest');
    await page.$eval('dialog input[name=value]', (input) => input.select());
    await page.type('dialog input[name=value]', 'edge-1.example.com');
    await page.click('dialog input[name=pinned]');
    await confirm('Count them');
    await confirm('Move: 3 streams');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);

    const moved = { move: { ingest: 'edge-1.example.com', pinned: true } };
    assert.deepEqual({ move: JSON.parse(made.at(-1)).move }, moved);

    await begin('Delete');
    await confirm('Delete: 3 streams');
    await waitText(page, '.t-streams', 'No stream matches');
    for (const name of all) assert.equal(await statusOf(name), 404, name);
    assert.equal(await statusOf('every-other'), 200);
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !/status of (400|409)/.test(report)),
      [],
    );
    await context.close();
    await call('DELETE', '/streams/every-other');
  },

  async 'an edit is previewed, saved, and shown to other tabs'(browser) {
    await call('PUT', '/streams/edited', { title: 'before' });
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams/edited' });
    await waitText(page, '.facts-line .title', 'before');
    const other = await context.newPage();
    other.setDefaultTimeout(WAIT.timeout);
    await other.goto(new URL('#/streams/edited', base).href);
    await waitText(other, '.facts-line .title', 'before');
    await page.bringToFront();
    await page.click('.bar-top button.primary');
    await page.waitForSelector('dialog textarea', WAIT);
    await typePatch(page, '{"title": 1}');
    await page.click('dialog footer button:nth-of-type(2)');
    await waitText(page, 'dialog .failure', '/title');
    await typePatch(page, '{"title": "after"}');
    await page.click('dialog footer button:nth-of-type(2)');
    await waitText(page, 'dialog .lead', 'No stream would move.');
    await page.click('dialog footer button.primary');
    await waitText(page, '.facts-line .title', 'after');
    await other.bringToFront();
    await waitText(other, '.facts-line .title', 'after');
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !report.includes('status of 400')),
      [],
    );
    await context.close();
  },

  async 'a change during a read is read, too'(browser) {
    const path = '/streamers/held.example.com';
    const save = (step) =>
      call('PUT', path, { role: 'streamer', cluster_key: 'k', labels: { step } });
    await save('first');
    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    await waitText(page, '.bar-top .labels', 'first');
    await waitText(page, '.live', 'Live');
    await page.waitForSelector('.lines li .mark', WAIT);
    const before = await page.$$eval('.lines li .mark', (all) => all.length);
    // The answer about the second save is held while the third one is made. Only events cause
    // this request, and none comes later: the streamer is lost after an hour.
    const session = await page.createCDPSession();
    const patterns = [{ urlPattern: '*/events?entity_id=held*', requestStage: 'Response' }];
    const held = new Promise((hold) => session.once('Fetch.requestPaused', hold));
    await session.send('Fetch.enable', { patterns });
    await save('second');
    const { requestId } = await within(held, 'a read after the second save');
    await save('third');
    await waitText(page, '.bar-top .labels', 'third');
    session.on('Fetch.requestPaused', (paused) => {
      void session.send('Fetch.continueRequest', { requestId: paused.requestId });
    });
    await session.send('Fetch.continueRequest', { requestId });
    await page.waitForFunction(
      (count) => document.querySelectorAll('.lines li .mark').length >= count,
      { timeout: 30_000 },
      before + 2,
    );
    assert.deepEqual(reports, []);
    await context.close();
    await call('DELETE', path);
  },

  async 'events come by themselves'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/events' });
    await page.waitForSelector('.log .event', WAIT);
    await waitText(page, '.live', 'Live');
    await call('PUT', '/streams/from-elsewhere', { title: 'x' });
    await waitText(page, '.log .line', 'from-elsewhere');
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'a token that only reads may not change anything'(browser) {
    const permissions = [{ scopes: ['streams/*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/reader', { permissions });
    const hash = '#/streams/cam%2Fgraz%2Fgate-1';
    const { page, context } = await loggedIn(browser, { hash, credential: reader });
    await waitText(page, 'main h1', 'cam/graz/gate-1');
    const states = await page.$$eval('.bar-top button', (all) => all.map((it) => it.disabled));
    assert.deepEqual(states, [true, true]);
    const screens = await page.$$eval('.rail a span', (all) => all.map((it) => it.textContent));
    assert.deepEqual(screens, ['Streams'], 'others are not in the menu');
    // What it may not read is refused in words; the rest stays.
    await go(page, '#/overview');
    await waitText(page, 'main .failure', 'permission');
    await waitText(page, '.live', 'By the clock');
    await context.close();
  },

  async 'a token of one folder finds its streams'(browser) {
    const permissions = [{ scopes: ['streams/cam%2Fgraz%2F*'], list: true, read: true }];
    const { key: folder } = await call('PUT', '/api_tokens/folder', { permissions });
    const { page, context, reports } = await loggedIn(browser, { credential: folder });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    await waitText(page, '.live', 'By the clock');
    reports.length = 0;
    await page.keyboard.press('/');
    await page.keyboard.type('gate-1');
    await waitText(page, '#found [role=option]', 'cam/graz/gate-1');
    assert.deepEqual(reports, [], 'what it may not list is not requested');
    await context.close();
  },

  async 'the layouter is switched by administrators, after a question'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/layouter' });
    const isRead = () => /\d/.test(document.querySelector('.tiles a.tile .big')?.textContent ?? '');
    await page.waitForFunction(isRead, WAIT);
    await waitText(page, 'main h1', 'on by the flag --layouter-enabled');
    const [to, number] = await page.$eval('.tiles a.tile', (tile) => [
      new URL(tile.href).hash,
      tile.querySelector('.big').textContent,
    ]);
    const { estimated_count: unplaced } = await call(
      'GET',
      '/streams?layout.ingest_is=null&disabled_ne=true&limit=1&select=name',
    );
    assert.equal(number, String(unplaced), 'the count is that of the API');
    const bodies = [];
    page.on('request', (request) => {
      if (request.method() === 'PUT') bodies.push(request.postData());
    });
    await page.click('.bar-top button');
    await waitText(page, 'dialog[open] .dialog-body', 'Nothing is placed or moved any more');
    await page.click('dialog[open] footer button.primary');
    // A flag wins over the file: the server's sentence, and what is in force.
    await waitText(page, 'main .warning', 'flag --layouter-enabled overrides it');
    assert.deepEqual(bodies, ['{"api_key":"***","layouter_enabled":"false"}']);
    await waitText(page, 'main h1', 'on by the flag --layouter-enabled');
    await go(page, to);
    await waitText(page, '.bar-top h1 small', number);
    assert.deepEqual(reports, []);
    await context.close();
    await call('PUT', '/config', { api_key: '***', layouter_enabled: null });

    const permissions = [{ scopes: ['*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/reads-all', { permissions });
    const other = await loggedIn(browser, { hash: '#/layouter', credential: reader });
    await waitText(other.page, '.bar-top', 'Only an administrator may change this');
    assert.equal(await other.page.$eval('.bar-top button', (it) => it.disabled), true);
    assert.deepEqual(other.reports, []);
    await other.context.close();
  },

  async 'the layouter is paused, shown as paused, and resumed'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/layouter' });
    await page.waitForSelector('.queue', WAIT);
    await waitText(page, '.queue', 'Moves back');
    const buttons = (of) =>
      of.$$eval('.buttons button', (all) => all.map((it) => [it.textContent, it.disabled]));
    assert.deepEqual(await buttons(page), [['Pause …', false], ['Drop improving moves …', true]]);
    await page.click('.buttons button');
    await waitText(page, 'dialog[open]', 'No stream moves for balance');
    await page.click('dialog[open] .tabs button:nth-child(2)');
    await waitText(page, 'dialog[open]', 'lost streamers keep their streams');
    await page.type('dialog[open] input[name=reason]', '<b>switch');
    await page.click('dialog[open] footer button.primary');
    await waitText(page, '.maintenance', 'nothing is placed or moved');
    await waitText(page, '.maintenance', '<b>switch');
    const { paused } = await call('GET', '/layouter');
    assert.deepEqual([paused.what, paused.reason], ['all', '<b>switch']);
    assert.equal(paused.until - paused.since, 30 * 60_000);
    await go(page, '#/overview');
    await waitText(page, 'main', 'The layouter is paused: nothing is placed or moved');

    const permissions = [{ scopes: ['*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/reads-pause', { permissions });
    const other = await loggedIn(browser, { hash: '#/layouter', credential: reader });
    await waitText(other.page, '.maintenance', '<b>switch');
    assert.deepEqual(
      await buttons(other.page),
      ['Resume', 'Pause …', 'Drop improving moves …'].map((word) => [word, true]),
    );
    assert.deepEqual(other.reports, []);
    await other.context.close();

    await go(page, '#/layouter');
    await waitText(page, '.buttons', 'Resume');
    await page.click('.buttons button');
    await page.waitForFunction(() => !document.querySelector('main .maintenance'), WAIT);
    assert.equal((await call('GET', '/layouter')).paused, null);
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'what if: the answer is that of the API, in the address, and applied'(browser) {
    const host = 'whatif-1.example.com';
    const path = `/streamers/${host}`;
    const alive = () => readStreams(path);
    const node = { role: 'streamer', cluster_key: 'k', channel_limit: 9, labels: { only: 'x' } };
    await call('PUT', path, node);
    await alive();
    const all = ['1', '2', '3'].map((number) => `whatif/<b>${number}`);
    const labels = { 'required.only': 'x' };
    await call('PUT', '/streams/batch', all.map((name) => ({ name, labels })));
    const layouts = all.map((name) => ({ name, ingest: host }));
    await call('POST', '/streams/layouts', { layouts });

    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    const answers = answersOf(page);
    await page.waitForSelector('.bar-top a.button', WAIT);
    await alive();
    await page.click('.bar-top a.button');
    await waitText(page, '.answer h3', 'without a place');
    const lost = await answers.next('/cluster/preview');
    assert.deepEqual(lost.body, { events: [{ event: 'streamer_lost', hostname: host }] });
    assert.equal(lost.answer.moves_caused, all.length);
    assert.equal(lost.answer.unplaced - lost.answer.unplaced_before, all.length);
    assert.deepEqual(await tiles(page), [
      count(lost.answer.moves_caused),
      count(lost.answer.unplaced),
      count(lost.answer.changes.length),
    ]);
    assert.deepEqual(await loadRows(page), rowsOfLoads(lost.answer.changes));
    assert.equal(await page.$$eval('.answer .lines b', (found) => found.length), 0);
    assert.equal(await page.evaluate(() => location.hash), `#/whatif?kind=lose&hosts=${host}`);

    // The address brings the question and its answer back; typing takes the answer away.
    await page.reload();
    await waitText(page, '.answer .big', count(lost.answer.moves_caused));
    assert.equal(await page.$eval('textarea[name=hosts]', (it) => it.value), host);
    await page.type('textarea[name=hosts]', ' nobody.example.com');
    await page.waitForFunction(() => !document.querySelector('.answer'), WAIT);
    await page.click('.question button.primary');
    await waitText(page, 'main .failure', '/events/1/hostname');
    await page.goBack();
    await waitText(page, '.answer .big', count(lost.answer.moves_caused));

    // A limit is changed, in the version that was asked about.
    const conditions = [];
    page.on('request', (request) => {
      if (request.method() === 'PUT') conditions.push(request.headers()['if-match']);
    });
    await page.click('.question .tabs button:nth-of-type(3)');
    await page.type('input[name=host]', host);
    const typeInto = async (text) => {
      await page.$eval('textarea[name=patch]', (area) => area.select());
      await page.type('textarea[name=patch]', text);
      await page.click('.question button.primary');
    };
    await typeInto('{"cluster_key": "s3cret"}');
    await waitText(page, '.question .failure', 'does not depend on cluster_key');
    assert.ok(!page.url().includes('s3cret'));
    await alive();
    await typeInto('{"channel_limit": 1}');
    await page.waitForSelector('.answer .apply button', WAIT);
    const changed = await answers.next(`${path}/preview_layout_change`);
    assert.deepEqual(changed.body, { channel_limit: 1 });
    assert.equal(changed.answer.moves_caused, 2);
    assert.equal((await tiles(page))[0], '2');
    assert.deepEqual(await loadRows(page), rowsOfLoads(changed.answer.changes));
    await call('PUT', path, { labels: { only: 'x', since: 'then' } });
    await page.click('.answer .apply button');
    await waitText(page, 'main .failure', 'Another change came first');
    assert.equal((await call('GET', path)).channel_limit, 9, 'nothing was changed');
    await page.click('.question button.primary');
    await waitText(page, '.answer .apply button', 'Save and move 2 streams');
    await page.click('.answer .apply button');
    await waitText(page, '.answer .done', host);
    assert.equal((await call('GET', path)).channel_limit, 1);
    assert.equal(conditions.length, 2);
    for (const condition of conditions) assert.match(condition, /^"/, 'the version asked about');
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !/status of (404|412)/.test(report)),
      [],
    );
    await context.close();
    for (const name of all) await call('DELETE', `/streams/${encodeURIComponent(name)}`);
    await call('DELETE', path);
  },

  async 'what if: every kind is asked, long answers are cut, refusals are words'(browser) {
    const long = 'x'.repeat(60);
    const made = Array.from({ length: 60 }, (_, number) => `${long}-${number}.example.com`);
    const { page, context, reports } = await loggedIn(browser);
    await page.waitForSelector('.tile', WAIT);
    await page.keyboard.press('g');
    await page.keyboard.press('w');
    await page.waitForSelector('.question', WAIT);
    const answers = answersOf(page);
    // Streams are added, like one that is there.
    await call('PUT', '/streams/like-this', {
      labels: { 'required.site': 'nowhere' },
      inputs: [{ url: 'fake://x' }],
    });
    await page.click('.question .tabs button:nth-of-type(2)');
    await page.$eval('input[name=count]', (input) => input.select());
    await page.type('input[name=count]', '7');
    await page.type('input[name=like]', 'like-this');
    await page.keyboard.press('Enter');
    await waitText(page, '.answer .lines', 'a new stream');
    const added = await answers.next('/cluster/preview');
    const stream = { labels: { 'required.site': 'nowhere' } };
    assert.deepEqual(added.body.events, [{ event: 'streams_added', count: 7, stream }]);
    assert.equal((await tiles(page))[1], count(added.answer.unplaced));
    // A stream changes.
    const patch = encodeURIComponent('{"disabled": true}');
    await go(page, `#/whatif?kind=stream&name=like-this&patch=${patch}`);
    const moved = await answers.next('/streams/like-this/preview_layout_change');
    assert.deepEqual(moved.body, { disabled: true });
    await waitText(page, '.answer .tile', 'Streams that move');
    assert.equal((await tiles(page))[0], count(moved.answer.moves_caused));
    // A streamer is added: nothing is stored that could be changed.
    await go(page, `#/whatif?kind=change&host=${made[0]}&patch={"channel_limit":5}`);
    const saved = await answers.next('/cluster/preview');
    assert.deepEqual(saved.body.events, [
      { channel_limit: 5, event: 'streamer_saved', hostname: made[0] },
    ]);
    await page.waitForSelector('.answer .tile', WAIT);
    assert.equal(await page.$('.apply'), null);
    // 60 changed loads: 50 rows, and the rest as a number.
    const session = await page.createCDPSession();
    await session.send('Fetch.enable', { patterns: [{ urlPattern: '*/cluster/preview' }] });
    const changes = made.map((hostname, number) => {
      const after = number + 1;
      return { hostname, role: 'ingest', before: 0, after, delta: after, capacity: 90 };
    });
    const reply = async (status, body) => {
      const { requestId } = await within(
        new Promise((paused) => session.once('Fetch.requestPaused', paused)),
        'a question',
      );
      await session.send('Fetch.fulfillRequest', {
        requestId,
        responseCode: status,
        body: Buffer.from(JSON.stringify(body)).toString('base64'),
      });
    };
    const cut = reply(200, { ...saved.answer, changes, hidden: 3 });
    await go(page, '#/whatif?kind=lose&hosts=edge-1.example.com');
    await cut;
    await waitText(page, '.answer', 'and 10 more');
    assert.equal((await loadRows(page)).length, 50);
    assert.equal((await loadRows(page))[0][0], made[59], 'the largest change first');
    await waitText(page, '.answer', '3 changes are not shown to this credential');
    const changesOfStreams = made.slice(0, 50).map((name) => ({ name, ingest: name }));
    const streams = { ...saved.answer, changes: changesOfStreams, estimated_count: 61 };
    // Without touch: the page is not loaded again.
    await page.setViewport({ ...SIZES.narrow, isMobile: false, hasTouch: false });
    const isFit = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
    assert.equal((await loadRows(page)).length, 50);
    assert.ok(await isFit(), 'long hostnames stay within the window');
    await session.send('Fetch.enable', { patterns: [{ urlPattern: '*/*preview*' }] });
    const ofStreams = reply(200, streams);
    await go(page, '#/whatif?kind=stream&name=like-this&patch={"labels":{}}');
    await ofStreams;
    await waitText(page, '.answer', 'and 11 more');
    assert.ok(await isFit(), 'long names stay within the window');
    await page.setViewport(SIZES.wide);
    const off = reply(409, { errors: [{ code: 'layouter_disabled', title: 'off' }] });
    await go(page, '#/whatif?kind=lose&hosts=edge-2.example.com');
    await off;
    await waitText(page, '.answer', 'The layouter is off');
    assert.deepEqual(
      reports.filter((report) => !/status of (404|409)/.test(report)),
      [],
    );
    await context.close();
    await call('DELETE', '/streams/like-this');
  },

  async 'what if: a loss on the overview leads to its question'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams' });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const session = await page.createCDPSession();
    const hostname = 'edge-1.example.com';
    const line = { count: 7, kind: 'loss', severity: 2, subject: hostname };
    const known = await call('GET', '/cluster/summary');
    const attention_kinds = { loss: 1 };
    const summary = JSON.stringify({ ...known, attention: [line], attention_kinds });
    session.on('Fetch.requestPaused', ({ requestId }) => {
      const body = Buffer.from(summary).toString('base64');
      void session.send('Fetch.fulfillRequest', { requestId, responseCode: 200, body });
    });
    await session.send('Fetch.enable', { patterns: [{ urlPattern: '*/cluster/summary' }] });
    await go(page, '#/overview');
    const chip = '.needs a.chip[href*="whatif"]';
    await page.waitForSelector(chip, WAIT);
    assert.equal(await textOf(page, chip), 'edge-1 7');
    await page.click(chip);
    await page.waitForSelector('.answer .tile', WAIT);
    assert.equal(await page.$eval('textarea[name=hosts]', (it) => it.value), hostname);
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'what if: a restricted session is not offered what it may not'(browser) {
    const hash = '#/whatif?kind=change&host=edge-1.example.com&patch={"channel_limit":150}';
    const reads = [{ scopes: ['*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/whatif-reads', { permissions: reads });
    const { page, context, reports } = await loggedIn(browser, { hash, credential: reader });
    await waitText(page, '.question', 'may not ask what would move');
    assert.equal(await page.$eval('.question button.primary', (it) => it.disabled), true);
    assert.deepEqual(reports, [], 'nothing was asked');
    await context.close();

    const asks = [{ scopes: ['*'], list: true, read: true, execute: true }];
    const { key: asker } = await call('PUT', '/api_tokens/whatif-asks', { permissions: asks });
    const other = await loggedIn(browser, { hash, credential: asker });
    await waitText(other.page, '.answer .apply', 'This credential may not change anything');
    assert.equal(await other.page.$eval('.apply button', (it) => it.disabled), true);
    assert.deepEqual(other.reports, []);
    await other.context.close();

    const one = [
      { scopes: ['streams/cam%2F*', 'cluster'], list: true, read: true, execute: true },
    ];
    const { key: few } = await call('PUT', '/api_tokens/whatif-few', { permissions: one });
    const third = await loggedIn(browser, { hash, credential: few });
    await waitText(third.page, 'main .failure', 'permission');
    await third.context.close();
  },

  async 'a streamer is cordoned with a reason, marked, and put back'(browser) {
    const host = 'cordon-1.example.com';
    const path = `/streamers/${host}`;
    await call('PUT', path, { role: 'streamer', cluster_key: 'k' });
    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    await page.waitForSelector('.bar-top button:not(:disabled)', WAIT);
    const sent = [];
    page.on('request', (request) => {
      if (request.method() !== 'PUT') return;
      sent.push([new URL(request.url()).pathname, JSON.parse(request.postData())]);
      assert.match(request.headers()['if-match'], /^"/, 'the version that is shown');
    });
    await clickOn(page, 'Cordon');
    await page.waitForSelector('dialog[open] input[name=reason]', WAIT);
    assert.deepEqual(await barriers(page), []);
    const setReason = (text) =>
      page.$eval(
        'dialog input[name=reason]',
        (input, value) => {
          input.value = value;
          input.dispatchEvent(new Event('input', { bubbles: true }));
        },
        text,
      );
    await setReason('x'.repeat(501));
    await page.keyboard.press('Enter');
    await waitText(page, 'dialog .failure', '/reason');
    await waitText(page, 'dialog .failure', '400 too_long');
    const reason = 'new <b>disks</b>';
    await setReason(reason);
    await page.keyboard.press('Enter');
    await waitText(page, 'main .maintenance', `· ${reason}`);
    assert.match(await textOf(page, 'main .maintenance'), /^Cordoned · .+ · new <b>disks/);
    assert.ok(await page.$('main .maintenance .mark.pause'), 'a shape beside the word');
    assert.ok(await page.$('main .maintenance time'), 'since when');
    const { maintenance } = (await call('GET', path)).state;
    assert.deepEqual([maintenance.mode, maintenance.reason], ['cordon', reason]);
    assert.deepEqual(
      sent.map(([to, body]) => [to.replace('/central/api/v3', ''), body.mode]),
      Array(2).fill([`${path}/maintenance`, 'cordon']),
    );
    // It is marked in both views of the list, which it can be filtered by.
    await go(page, '#/streamers');
    await waitText(page, '.t-streamers .label.cordoned', 'Cordoned');
    assert.ok(await page.$('.t-streamers .label.cordoned .mark.pause'));
    await clickOn(page, 'Cordoned', '.chips button');
    await page.waitForFunction(
      () => document.querySelectorAll('.t-streamers .tbody a.name').length === 1,
      WAIT,
    );
    await go(page, '#/streamers?view=grid&state=cordoned');
    await waitText(page, '.cell.cordoned i', 'Cordoned');
    assert.ok(await page.$('.cell.cordoned .mark.pause'));
    assert.equal(await page.$$eval('.cell', (all) => all.length), 1);
    // Another one cordons it for another reason while this page is late: that reason stays.
    await go(page, `#${path}`);
    await page.waitForSelector('main .maintenance', WAIT);
    const session = await page.createCDPSession();
    const patterns = [{ urlPattern: `*${path}/maintenance` }];
    const held = new Promise((hold) => session.once('Fetch.requestPaused', hold));
    await session.send('Fetch.enable', { patterns });
    await clickOn(page, 'Back to service');
    const { requestId } = await within(held, 'the end of the maintenance');
    await call('PUT', `${path}/maintenance`, { mode: 'cordon', reason: 'another one' });
    await session.send('Fetch.continueRequest', { requestId });
    await session.send('Fetch.disable');
    await waitText(page, 'main .failure', 'Another change came first');
    await waitText(page, 'main .maintenance', 'another one');
    await clickOn(page, 'Back to service');
    await page.waitForFunction(() => !document.querySelector('.maintenance'), WAIT);
    await waitText(page, '.bar-top button', 'Cordon …');
    assert.equal(await page.$('main .failure'), null, 'a refusal that is over is not shown');
    assert.equal((await call('GET', path)).state.maintenance, undefined);
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !/status of (400|412)/.test(report)),
      [],
    );
    await context.close();
    await call('DELETE', path);
  },

  async 'a streamer is drained after a preview, until it reports no stream'(browser) {
    const [host, other] = ['drained-1.example.com', 'drained-2.example.com'];
    const [path, second] = [`/streamers/${host}`, `/streamers/${other}`];
    const labels = { only: 'drained' };
    const alive = async () => {
      await readStreams(path);
      await readStreams(second);
    };
    const streamer = { role: 'streamer', cluster_key: 'k', labels };
    await call('PUT', path, { ...streamer, channel_limit: 9 });
    await call('PUT', second, { ...streamer, channel_limit: 2 });
    await alive();
    const all = ['1', '2', '3'].map((number) => `drained-on/${number}`);
    const bound = { 'required.only': 'drained' };
    await call('PUT', '/streams/batch', all.map((name) => ({ name, labels: bound })));
    const layouts = all.map((name) => ({ name, ingest: host }));
    await call('POST', '/streams/layouts', { layouts });
    await alive();

    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    await page.waitForSelector('.bar-top button:not(:disabled)', WAIT);
    await clickOn(page, 'Drain');
    await waitText(page, 'dialog footer button.primary', 'Drain 2 streams');
    await waitText(page, 'dialog .consequences', '1 stream would stay there');
    await waitText(page, 'dialog .consequences li', 'drained-on/');
    assert.deepEqual(await barriers(page), []);
    await page.setViewport({ ...SIZES.narrow, isMobile: false, hasTouch: false });
    assert.equal(await tooWide(page), 0);
    await page.setViewport(SIZES.wide);
    const type = (name, text) =>
      page.$eval(
        `dialog input[name=${name}]`,
        (input, value) => {
          input.value = value;
          input.dispatchEvent(new Event('input', { bubbles: true }));
        },
        text,
      );
    await type('pace', 'fast');
    await page.click('dialog footer button.primary');
    await waitText(page, 'dialog .failure', '/pace');
    assert.equal((await call('GET', path)).state.maintenance, undefined, 'nothing has begun');
    await type('pace', '0');
    await type('deadline', '2h');
    await type('reason', 'new <b>disks</b>');
    await page.click('dialog input[name=return]');
    await page.click('dialog footer button.primary');
    await noDialog(page);
    await waitText(page, 'main .maintenance', 'Draining');
    await waitText(page, 'main .maintenance', 'new <b>disks');
    const { maintenance } = (await call('GET', path)).state;
    assert.deepEqual(
      [maintenance.mode, maintenance.pace, maintenance.return],
      ['drain', 0, false],
    );
    assert.ok(maintenance.deadline > maintenance.since);
    await waitText(page, 'main .maintenance', '1 without another place');
    assert.equal(await page.$$eval('.bar-top button', (all) =>
      all.filter((button) => /^(Cordon|Drain) /.test(button.textContent)).length), 0);
    await go(page, '#/streamers');
    await waitText(page, '.t-streamers .label.cordoned', 'Draining');
    // There is room for the last one, and the streamers report what they run.
    await call('PUT', second, { channel_limit: 9 });
    const running = all.map((name) => ({ name, status: 'running' }));
    for (let left = 1; left; ) {
      await alive();
      await call('PUT', `${second}/stats`, { streams: running });
      await call('PUT', `${path}/stats`, { streams: [] });
      left = (await call('GET', path)).state.maintenance.drained_at ? 0 : 1;
    }
    await go(page, `#${path}`);
    await waitText(page, 'main .maintenance', 'Drained');
    await clickOn(page, 'Back to service');
    await page.waitForFunction(() => !document.querySelector('.maintenance'), WAIT);
    await waitText(page, '.bar-top button', 'Drain …');
    assert.deepEqual(
      reports.filter((report) => !/status of 400/.test(report)),
      [],
    );
    await context.close();
    for (const name of all) await call('DELETE', `/streams/${encodeURIComponent(name)}`);
    await call('DELETE', path);
    await call('DELETE', second);
  },

  async 'a streamer is edited after a preview of its loads'(browser) {
    const host = 'edited-1.example.com';
    const path = `/streamers/${host}`;
    const alive = () => readStreams(path);
    await call('PUT', path, {
      role: 'streamer',
      cluster_key: 's3cret-key',
      api_url: 'http://root:s3cret-word@127.0.0.1:9/?token=s3cret-token',
      channel_limit: 9,
      labels: { only: 'edited' },
    });
    await alive();
    const all = ['1', '2', '3'].map((number) => `edited-on/${number}`);
    const labels = { 'required.only': 'edited' };
    await call('PUT', '/streams/batch', all.map((name) => ({ name, labels })));
    const layouts = all.map((name) => ({ name, ingest: host }));
    await call('POST', '/streams/layouts', { layouts });
    await alive();

    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    const answers = answersOf(page);
    const conditions = [];
    page.on('request', (request) => {
      if (request.method() === 'PUT') conditions.push(request.headers()['if-match']);
    });
    await page.waitForSelector('.json', WAIT);
    await clickOn(page, 'Edit');
    await page.waitForSelector('dialog textarea', WAIT);
    const given = await page.$eval('dialog textarea', (it) => it.value);
    assert.deepEqual(JSON.parse(given), { labels: { only: 'edited' }, channel_limit: 9 });
    const html = await page.evaluate(() => document.body.outerHTML);
    assert.ok(!html.includes('s3cret'), 'no secret is on the page');
    await typePatch(page, '{"channel_limit": "many"}');
    await clickOn(page, 'Preview', 'dialog footer button');
    await waitText(page, 'dialog .failure', '/channel_limit');
    const refused = await answers.next(`${path}/preview_layout_change`);
    assert.equal(refused.answer.errors[0].source.pointer, '/channel_limit');
    await alive();
    await typePatch(page, '{"channel_limit": 1}');
    await clickOn(page, 'Preview', 'dialog footer button');
    const { answer } = await answers.next(`${path}/preview_layout_change`);
    assert.equal(answer.moves_caused, 2);
    await waitText(page, 'dialog footer button.primary', 'Save and move 2 streams');
    await waitText(page, 'dialog .lead', '2 streams more would have no place.');
    assert.deepEqual(await loadRows(page), rowsOfLoads(answer.changes));
    assert.deepEqual(await barriers(page), []);
    await page.setViewport({ ...SIZES.narrow, isMobile: false, hasTouch: false });
    assert.equal(await tooWide(page), 0);
    const [content, box] = await page.$eval('dialog', (it) => [it.scrollWidth, it.clientWidth]);
    assert.ok(content <= box, `the dialog is ${content} wide in ${box}`);
    await page.setViewport(SIZES.wide);
    // The version that was previewed is not the stored one any more.
    await call('PUT', path, { labels: { only: 'edited', since: 'then' } });
    await page.click('dialog footer button.primary');
    await waitText(page, 'dialog .failure', 'Another change came first');
    assert.equal((await call('GET', path)).channel_limit, 9, 'nothing was changed');
    assert.equal(await page.$eval('dialog footer button.primary', (it) => it.disabled), true);
    await alive();
    await clickOn(page, 'Preview', 'dialog footer button');
    await waitText(page, 'dialog footer button.primary', 'Save and move 2 streams');
    await page.click('dialog footer button.primary');
    await noDialog(page);
    assert.equal((await call('GET', path)).channel_limit, 1);
    await waitText(page, 'pre.json', '"channel_limit": 1');
    assert.equal((await call('GET', path)).cluster_key, 's3cret-key', 'an edit keeps the key');
    assert.equal(conditions.length, 2);
    for (const condition of conditions) assert.match(condition, /^"/, 'the previewed version');
    assert.deepEqual(
      reports.filter((report) => !/status of (400|412)/.test(report)),
      [],
    );
    await context.close();
    for (const name of all) await call('DELETE', `/streams/${encodeURIComponent(name)}`);
    await call('DELETE', path);
  },

  async 'a streamer is deleted by its name, in the version that is shown'(browser) {
    const host = 'deleted-1.example.com';
    const path = `/streamers/${host}`;
    const status = async () => (await fetch(API + path, { headers: administrator })).status;
    await call('PUT', path, { role: 'streamer', cluster_key: 'k' });
    await call('PUT', '/streams/of-deleted', { layout: { ingest: host } });
    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    await waitText(page, '.t-on-streamer .tbody .name', 'of-deleted');
    const open = async () => {
      await clickOn(page, 'Delete');
      await page.waitForSelector('dialog footer .danger:disabled', WAIT);
    };
    await open();
    await waitText(page, 'dialog .lead', '1 stream runs on it.');
    assert.deepEqual(await barriers(page), []);
    await page.type('dialog input', host.slice(0, -1));
    assert.equal(await page.$eval('dialog footer .danger', (it) => it.disabled), true);
    await page.keyboard.type(host.slice(-1));
    await page.waitForSelector('dialog footer .danger:not(:disabled)', WAIT);
    // What is behind the dialog is refreshed, but the question was about the version before.
    await call('PUT', path, { labels: { now: 'needed' } });
    await waitText(page, '.bar-top .labels', 'needed');
    await page.click('dialog footer .danger');
    await waitText(page, 'dialog .failure', 'Another change came first');
    assert.equal(await status(), 200);
    await page.keyboard.press('Escape');
    await noDialog(page);
    await open();
    await page.type('dialog input', host);
    await page.waitForSelector('dialog footer .danger:not(:disabled)', WAIT);
    await page.keyboard.press('Enter');
    await page.waitForSelector('.t-streamers .tbody', WAIT);
    assert.equal(await page.evaluate(() => location.hash), '#/streamers');
    assert.equal(await status(), 404);
    assert.deepEqual(
      reports.filter((report) => !/status of 412/.test(report)),
      [],
    );
    await context.close();
    await call('DELETE', '/streams/of-deleted');
  },

  async 'a restricted session changes of a streamer what it may'(browser) {
    const path = '/streamers/limited-1.example.com';
    await call('PUT', path, { role: 'streamer', cluster_key: 's3cret-key' });
    const reads = { scopes: ['*'], list: true, read: true };
    const { key: reader } = await call('PUT', '/api_tokens/streamer-reads', {
      permissions: [reads],
    });
    const options = { hash: `#${path}`, credential: reader };
    const { page, context, reports } = await loggedIn(browser, options);
    await page.waitForSelector('.bar-top button', WAIT);
    const buttons = await page.$$eval('.bar-top button', (all) =>
      all.map((it) => [it.textContent, it.disabled, it.title]),
    );
    const why = 'This credential may not change anything';
    assert.deepEqual(
      buttons,
      ['Cordon …', 'Drain …', 'Delete …', 'Edit …'].map((word) => [word, true, why]),
    );
    assert.deepEqual(reports, []);
    await context.close();

    // One that may write, but not ask, saves without a preview, of the stored version.
    const { key: writer } = await call('PUT', '/api_tokens/streamer-writes', {
      permissions: [{ ...reads, write: true }],
    });
    const second = await loggedIn(browser, { hash: `#${path}`, credential: writer });
    await second.page.waitForSelector('.bar-top button:not(:disabled)', WAIT);
    const asked = [];
    second.page.on('request', (request) => {
      if (request.url().includes('preview')) asked.push(request.url());
    });
    await clickOn(second.page, 'Edit');
    await second.page.waitForSelector('dialog textarea', WAIT);
    await typePatch(second.page, '{"labels": {"by": "writer"}}');
    await clickOn(second.page, 'Preview', 'dialog footer button');
    await waitText(second.page, 'dialog .lead', 'may not ask what would move');
    await second.page.click('dialog footer button.primary');
    await waitText(second.page, '.bar-top .labels', 'writer');
    assert.deepEqual(asked, []);
    assert.deepEqual(second.reports, []);
    await second.context.close();

    // One that may write other entities is refused in the server's words.
    const { key: other } = await call('PUT', '/api_tokens/streamer-others', {
      permissions: [reads, { scopes: ['streams/*'], write: true }],
    });
    const third = await loggedIn(browser, { hash: `#${path}`, credential: other });
    await third.page.waitForSelector('.bar-top button:not(:disabled)', WAIT);
    await clickOn(third.page, 'Cordon');
    await third.page.waitForSelector('dialog input[name=reason]', WAIT);
    await third.page.keyboard.press('Enter');
    await waitText(third.page, 'dialog .failure', 'permission');
    await waitText(third.page, 'dialog .failure', '403');
    await third.page.keyboard.press('Escape');
    await noDialog(third.page);
    await call('PUT', `${path}/maintenance`, { mode: 'cordon', reason: 'theirs' });
    await waitText(third.page, 'main .maintenance', 'theirs');
    await clickOn(third.page, 'Back to service');
    await waitText(third.page, 'main .failure', '403');
    assert.equal((await call('GET', path)).state.maintenance.reason, 'theirs');
    await third.context.close();
    await call('DELETE', path);
  },

  async 'the key of a new token is shown once'(browser) {
    const name = 'made<b>here';
    const path = `/api_tokens/${encodeURIComponent(name)}`;
    const { page, context, reports } = await loggedIn(browser, { hash: '#/tokens' });
    await page.waitForSelector('.bar-top button.primary:not(:disabled)', WAIT);
    const make = async () => {
      await page.click('.bar-top button.primary');
      await page.waitForSelector('dialog[open] input[name=name]', WAIT);
      await page.type('dialog input[name=name]', name);
      await page.keyboard.press('Enter');
    };
    await make();
    await page.waitForSelector('.made-key code', WAIT);
    const made = await textOf(page, '.made-key code');
    const headers = { Authorization: `Bearer ${made}` };
    assert.equal((await fetch(`${API}/streams?limit=1`, { headers })).status, 200);
    await page.click('dialog[open] footer button.primary');
    await waitText(page, '.t-tokens .tbody .tr', 'list, read: *');
    const isShown = () => page.evaluate((key) => document.body.outerHTML.includes(key), made);
    assert.equal(await isShown(), false, 'it is gone with the dialog');
    assert.equal(await page.$$eval('.t-tokens .tbody b', (all) => all.length), 0, 'a name is text');
    await make();
    await waitText(page, 'dialog .failure', `${name} exists already`);
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);

    await go(page, `#${path.replace('api_tokens', 'tokens')}`);
    await page.waitForSelector('dialog textarea', WAIT);
    assert.match(await page.$eval('dialog textarea', (it) => it.value), /"permissions"/);
    await typePatch(page, '{"permissions": [{"scopes": ["streams/*"], "list": true}]}');
    await page.click('dialog footer button.primary');
    await waitText(page, '.t-tokens .tbody .tr', 'list: streams/*');
    assert.equal((await call('GET', path)).key, made, 'an edit keeps the key');
    assert.equal(await isShown(), false);

    // A deletion is typed, and is about the version that is shown.
    const askToDelete = async () => {
      await go(page, `#${path.replace('api_tokens', 'tokens')}`);
      await page.waitForSelector('dialog textarea', WAIT);
      await page.click('dialog footer button:nth-of-type(2)');
      await page.waitForSelector('dialog footer .danger:disabled', WAIT);
    };
    await askToDelete();
    await page.type('dialog input', name.slice(1));
    assert.equal(await page.$eval('dialog footer .danger', (it) => it.disabled), true);
    await page.keyboard.press('Home');
    await page.keyboard.type(name.slice(0, 1));
    await page.waitForSelector('dialog footer .danger:not(:disabled)', WAIT);
    await call('PUT', path, { permissions: [{ scopes: ['*'], list: true }] });
    await page.click('dialog footer .danger');
    await waitText(page, 'dialog .failure', 'Another change came first');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    await askToDelete();
    await page.type('dialog input', name);
    // Enter is for a button that is enabled.
    await page.waitForSelector('dialog footer .danger:not(:disabled)', WAIT);
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    assert.equal((await fetch(API + path, { headers: administrator })).status, 404);
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !report.includes('status of 412')),
      [],
    );
    await context.close();
  },

  async 'commands for agents are confirmed, and refused in words'(browser) {
    await call('PUT', '/agents/camera-7', { key: 'secret-of-camera-7' });
    const { page, context } = await loggedIn(browser, { hash: '#/agents' });
    await waitText(page, '.t-agents .tbody .name', 'camera-7');
    await page.click('.t-agents .tbody a.name[href*="camera-7"]');
    await page.waitForSelector('dialog fieldset button', WAIT);
    const sent = [];
    page.on('request', (request) => {
      if (request.method() === 'POST') sent.push(new URL(request.url()).pathname);
    });
    await page.click('dialog fieldset button');
    await waitText(page, 'dialog fieldset button', 'Really Reboot?');
    assert.deepEqual(sent, [], 'not before it is confirmed');
    await page.click('dialog fieldset button');
    await waitText(page, 'dialog .failure', 'The agent is not connected');
    assert.deepEqual(sent, ['/central/api/v3/agents/camera-7/reboot']);
    const text = await page.evaluate(() => document.body.outerHTML);
    assert.ok(!text.includes('secret-of-camera-7'));
    await context.close();
  },

  async 'lists of entities show what others save'(browser) {
    const permissions = [{ scopes: ['streams/*'], list: true }];
    // The list, an entity, what is saved first and then, and what is shown of that.
    const lists = [
      ['agents', '/agents/news', {}, null, null],
      ['tokens', '/api_tokens/news', { permissions }, null, 'list, read: streams/*'],
      ['auth', '/auth_backends/news', { allow_ips: ['10.0.0.0/8'] }, null, 'denied'],
      ['balancers', '/load-balancers/news', { mode: 'clients' }, null, 'streams'],
    ];
    lists[1][3] = { permissions: [{ ...permissions[0], read: true }] };
    lists[2][3] = { allow_default: false };
    lists[3][3] = { mode: 'streams' };
    const { page, context, reports } = await loggedIn(browser);
    await waitText(page, '.live', 'Live');
    for (const [screen, path, first, then, shown] of lists) {
      await go(page, `#/${screen}`);
      await page.waitForSelector(`.t-${screen} .tbody`, WAIT);
      const others = await call('GET', path.replace('/news', '?limit=1'));
      await waitText(page, '.bar-top h1 small', count(others.estimated_count));
      await call('PUT', path, first);
      await waitText(page, `.t-${screen} .tbody .name`, 'news');
      if (then) {
        await call('PUT', path, then);
        await waitText(page, `.t-${screen} .tbody .tr`, shown);
      }
      await call('DELETE', path);
      await page.waitForFunction(
        (at) => ![...document.querySelectorAll(at)].some((it) => it.textContent === 'news'),
        WAIT,
        `.t-${screen} .tbody .name`,
      );
    }
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'lists of entities say what may be done'(browser) {
    await call('PUT', '/auth_backends/office', { allow_ips: ['10.0.0.0/8'], allow_default: false });
    const { page, context } = await loggedIn(browser, { hash: '#/balancers' });
    await page.waitForSelector('.bar-top button.primary:not(:disabled)', WAIT);
    await page.click('.bar-top button.primary');
    await page.waitForSelector('dialog[open] input[name=name]', WAIT);
    await page.type('dialog input[name=name]', 'near');
    await typePatch(page, '{"mode": "nearest"}');
    await page.click('dialog footer button.primary');
    await waitText(page, 'dialog .failure', '/mode');
    await typePatch(page, '{"mode": "clients"}');
    await page.click('dialog footer button.primary');
    await waitText(page, '.t-balancers .tbody .tr', 'clients');
    await context.close();

    const permissions = [{ scopes: ['*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/reads-lists', { permissions });
    const other = await loggedIn(browser, { hash: '#/auth/office', credential: reader });
    await waitText(other.page, 'dialog', 'This credential may not change anything');
    await other.page.waitForSelector('dialog textarea[readonly]', WAIT);
    const states = await other.page.$$eval('dialog footer button:not(.quiet)', (all) =>
      all.map((it) => it.disabled),
    );
    assert.deepEqual(states, [true, true]);
    await go(other.page, '#/tokens');
    await waitText(other.page, '.bar-top', 'Only an administrator may change this');
    assert.deepEqual(other.reports, []);
    await other.context.close();
  },

  async 'settings name their sources, and are changed one by one'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/settings' });
    await page.waitForSelector('.settings li', WAIT);
    const row = (name) => `xpath/.//ul[@class="settings"]/li[span/code="${name}"]`;
    const textOfRow = async (name) => (await page.$(row(name))).evaluate((it) => it.textContent);
    assert.match(await textOfRow('layouter_enabled'), /on by the flag --layouter-enabled/);
    assert.match(await textOfRow('api_key'), /not shown/);
    const html = await page.evaluate(() => document.body.outerHTML);
    assert.ok(!html.includes(key), 'the key is nowhere');
    const change = async (name, text) => {
      await (await page.$(`${row(name)}//button`)).click();
      await page.waitForSelector('dialog[open] input[name=value]', WAIT);
      await page.$eval('dialog input[name=value]', (it) => it.select());
      await page.type('dialog input[name=value]', text);
      await page.keyboard.press('Enter');
    };
    await change('episodes_buffer_limit', 'many');
    await waitText(page, 'dialog .failure', 'must be a whole number');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    await change('streamer_dead_timeout', '1');
    await waitText(page, 'dialog .failure', '/streamer_dead_timeout');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    await change('episodes_buffer_limit', '251');
    await waitText(page, '.settings li', '251 in the file');
    assert.equal((await call('GET', '/config')).episodes_buffer_limit, 251);
    await (await page.$(`${row('episodes_buffer_limit')}//button`)).click();
    await page.waitForSelector('dialog[open] footer button:nth-of-type(2)', WAIT);
    await page.click('dialog footer button:nth-of-type(2)');
    await waitText(page, '.settings li', '250 by default');
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !report.includes('status of 400')),
      [],
    );
    await context.close();

    const permissions = [{ scopes: ['*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/reads-settings', { permissions });
    const other = await loggedIn(browser, { hash: '#/settings', credential: reader });
    await waitText(other.page, '.bar-top', 'Only an administrator may change this');
    const states = await other.page.$$eval('.settings button', (all) =>
      all.map((it) => it.disabled),
    );
    assert.ok(states.length > 10 && states.every(Boolean), `${states}`);
    assert.deepEqual(other.reports, []);
    await other.context.close();
  },

  async 'a narrow page has the other screens behind one link'(browser) {
    const { page, context, reports } = await loggedIn(browser, { size: 'narrow' });
    const shown = () =>
      page.$$eval('.rail a', (all) =>
        all.filter((it) => it.checkVisibility()).map((it) => it.textContent),
      );
    assert.deepEqual(await shown(), ['Overview', 'Streamers', 'Streams', 'Events', 'More']);
    await page.click('.rail a.more');
    await page.waitForSelector('.screens a[href*="layouter"]', WAIT);
    await page.click('.screens a[href*="layouter"]');
    await waitText(page, 'main h1', 'Layouter');
    assert.equal(await textOf(page, '.rail a.more[aria-current]'), 'More');
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'the page works below a path of a proxy'(browser) {
    const proxy = await proxyBelow('/weir');
    const { page, context, reports } = await loggedIn(browser, { at: proxy.address });
    await page.waitForSelector('.tile', WAIT);
    await waitText(page, '.live', 'Live');
    await page.click('.rail a[href*="streams"]');
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    await page.reload();
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const { pathname, hash } = new URL(page.url());
    assert.deepEqual([pathname, hash], ['/weir/ui/', '#/streams']);
    assert.deepEqual(proxy.outside, [], 'requests outside of the path');
    assert.deepEqual(reports, []);
    await context.close();
    proxy.close();
  },

  async 'the first screen takes few requests and bytes'(browser) {
    const { page, context } = await open(browser);
    const session = await page.createCDPSession();
    await logIn(page);
    await page.waitForSelector('.tile', WAIT);
    await session.send('Network.enable');
    const sizes = new Map();
    const urls = new Map();
    session.on('Network.requestWillBeSent', ({ requestId, request }) =>
      urls.set(requestId, request.url),
    );
    session.on('Network.loadingFinished', ({ requestId, encodedDataLength }) =>
      sizes.set(requestId, encodedDataLength),
    );
    await session.send('Network.setCacheDisabled', { cacheDisabled: true });
    await page.reload();
    await page.waitForSelector('.tile', WAIT);
    await waitText(page, '.live', 'Live');
    const bytes = { api: 0, files: 0 };
    for (const [id, size] of sizes) {
      bytes[urls.get(id)?.includes('/api/v3') ? 'api' : 'files'] += size;
    }
    console.log(`  ${urls.size} requests, ${bytes.files} bytes of files, ${bytes.api} of the API`);
    assert.ok(urls.size <= FIRST_SCREEN.requests, `${urls.size} requests`);
    assert.ok(bytes.files > 0 && bytes.files <= FIRST_SCREEN.fileBytes, `${bytes.files} of files`);
    assert.ok(bytes.api > 0 && bytes.api <= FIRST_SCREEN.apiBytes, `${bytes.api} of the API`);
    await context.close();
  },

  async 'one tab of a browser waits for all'(browser) {
    const { page, context } = await loggedIn(browser);
    await waitText(page, '.live', 'Live');
    const waiting = [];
    const tabs = [page];
    for (let count = 0; count < 7; count += 1) {
      const tab = await context.newPage();
      tab.on('request', (request) => {
        if (request.url().includes('poll_timeout')) waiting.push(request.url());
      });
      await tab.goto(base);
      await waitText(tab, '.live', 'Live');
      await tab.waitForSelector('.tile', WAIT);
      tabs.push(tab);
    }
    assert.deepEqual(waiting, [], 'only the first tab waits');
    // When it is closed, another one takes over.
    await page.close();
    const next = tabs[1];
    await next.bringToFront();
    await call('PUT', '/streams/taken-over', { title: 'x' });
    await go(next, '#/events');
    await call('PUT', '/streams/taken-over', { title: 'y' });
    await waitText(next, '.log .line', 'taken-over');
    await context.close();
  },

  async 'a tab that takes over sends what the closed one did not'(browser) {
    const { page, context } = await loggedIn(browser);
    await waitText(page, '.live', 'Live');
    const next = await context.newPage();
    next.setDefaultTimeout(WAIT.timeout);
    await next.goto(new URL('#/events', base).href);
    await next.waitForSelector('.log .event', WAIT);
    await waitText(next, '.live', 'Live');
    // The next waiting request of the first tab never leaves it.
    await page.setRequestInterception(true);
    const held = new Promise((hold) => {
      page.on('request', (request) => {
        if (request.url().includes('poll_timeout')) hold();
        else void request.continue();
      });
    });
    await call('PUT', '/streams/before-closing', { title: 'x' });
    await within(held, 'the next waiting request');
    await waitText(next, '.log .line', 'before-closing');
    await call('PUT', '/streams/between-tabs', { title: 'x' });
    await page.close();
    await next.bringToFront();
    await waitText(next, '.log .line', 'between-tabs');
    await context.close();
  },

  async 'a restarted server leads to the login, and back to the screen'(browser) {
    const hash = '#/streams?q=graz';
    const { page, context } = await loggedIn(browser, { hash });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    await restartServer();
    await page.waitForSelector('input[name=key]', WAIT);
    await logIn(page);
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    assert.equal(await page.evaluate(() => location.hash), hash);
    await context.close();
  },
};

/** All screens in one appearance and size: accessible, within the window, without a report. */
async function checkScreens(browser, theme, size) {
  await call('PUT', '/agents/of-screens', {});
  await call('PUT', '/api_tokens/of-screens', {
    permissions: [{ scopes: ['streams/a%2F*'], list: true }],
  });
  await call('PUT', '/auth_backends/of-screens', { allow_ips: ['10.0.0.0/8'] });
  await call('PUT', '/load-balancers/of-screens', {});
  const cordon = { mode: 'cordon', reason: 'x'.repeat(300) };
  await call('PUT', '/streamers/edge-2.example.com/maintenance', cordon);
  const { page, context, reports } = await loggedIn(browser, { theme, size });
  for (const [name, [hash, selector]] of Object.entries(SCREENS)) {
    await go(page, hash);
    await page.waitForSelector(`main ${selector}`, WAIT);
    const found = await barriers(page);
    const wide = await tooWide(page);
    const elements = await page.$$eval('*', (all) => all.length);
    const at = `${name} ${theme} ${size}`;
    assert.deepEqual(found, [], at);
    assert.equal(wide, 0, `${at}: ${wide} pixels wider than the window`);
    assert.ok(elements <= ELEMENTS_MAX, `${at}: ${elements} elements`);
    assert.deepEqual(reports, [], at);
  }
  await context.close();
}

for (const theme of ['light', 'dark']) {
  for (const size of Object.keys(SIZES)) {
    CHECKS[`all screens, ${theme}, ${size}`] = (browser) => checkScreens(browser, theme, size);
  }
}

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  protocolTimeout: 120_000,
});
try {
  const only = process.env.ONLY;
  for (const [name, check] of Object.entries(CHECKS)) {
    if (only && !name.includes(only)) continue;
    try {
      await check(browser);
    } catch (error) {
      throw new Error(`${name}: ${error.message}`, { cause: error });
    }
    console.log(`ok ${name}`);
  }
  console.log('done');
} finally {
  await browser.close();
}
process.exit(0);
