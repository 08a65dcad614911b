// What the checks of the interface share: the server, its pages, and what is waited for on them.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer, request as httpRequest } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const [base, key] = process.argv.slice(2);
export const API = new URL('/central/api/v3', base).href;
export const WAIT = { timeout: 60_000 };
export const ELEMENTS_MAX = 2000;
export const FIRST_SCREEN = { requests: 24, fileBytes: 60 * 1024, apiBytes: 12 * 1024 };
export const SIZES = {
  wide: { width: 1440, height: 900 },
  narrow: { width: 390, height: 844, isMobile: true, hasTouch: true },
};
const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const axe = readFileSync(
  fileURLToPath(import.meta.resolve('axe-core')).replace(/axe\.js$/, 'axe.min.js'),
  'utf8',
);

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Requests something about the server from whoever started the checks, and waits for it. */
async function requestServer(what, done) {
  console.log(what);
  const { value } = await lines.next();
  assert.equal(value, done);
}

export const restartServer = () => requestServer('RESTART', 'restarted');
export const endServer = () => requestServer('END', 'ended');
export const startServer = () => requestServer('START', 'started');

/** A request to the API beside the page. */
export async function call(method, path, body) {
  const response = await fetch(API + path, {
    method,
    headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return response.status === 204 ? null : response.json();
}

/** Reads the streams of a streamer as it does: two reads are a sign of life. */
export async function readStreams(path) {
  for (let read = 0; read < 2; read += 1) await call('GET', `${path}/streams`);
}

export const administrator = { Authorization: `Bearer ${key}` };

/** The status of a stream, read beside the page. */
export async function statusOf(name) {
  const path = `${API}/streams/${encodeURIComponent(name)}`;
  return (await fetch(path, { headers: administrator })).status;
}

/**
 * A reverse proxy that serves the server below a path, which it removes from requests. While it is
 * cut, it closes every connection.
 */
export async function proxyBelow(prefix) {
  const outside = [];
  let isCut = false;
  const { hostname, port } = new URL(base);
  const proxy = createServer((incoming, outgoing) => {
    if (isCut) {
      incoming.socket.destroy();
      return;
    }
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
  const cut = () => {
    isCut = true;
    proxy.closeAllConnections();
  };
  const mend = () => void (isCut = false);
  const address = `http://127.0.0.1:${proxy.address().port}${prefix}/`;
  return { address, outside, cut, mend, close };
}

/** A page in a context of its own, and what its console reported. */
export async function open(browser, { size = 'wide', theme = 'light', hash = '', at = base } = {}) {
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

export async function logIn(page, credential = key) {
  await page.waitForSelector('input[name=key]', WAIT);
  await page.type('input[name=key]', credential);
  await page.click('form button.primary');
}

/** A logged-in page; what the console reported of the login is forgotten. */
export async function loggedIn(browser, options) {
  const opened = await open(browser, options);
  await logIn(opened.page, options?.credential);
  await opened.page.waitForSelector('.rail', WAIT);
  opened.reports.length = 0;
  return opened;
}

/** The first screen with an empty cache takes few requests and bytes. */
export async function checkFirstScreen(browser) {
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
}

/** What a promise gives, within the bound of all waits. */
export async function within(promise, what) {
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

export const go = (page, hash) => page.evaluate((to) => void (location.hash = to), hash);
export const textOf = (page, selector) =>
  page.$eval(selector, (element) => element.textContent.replace(/\s+/g, ' ').trim());
export async function waitText(page, selector, text) {
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
export const names = (page) =>
  page.$$eval('.t-streams .tbody [data-col=name] .name', (all) => all.map((a) => a.title));

/** What a page has that not everybody can use. */
export async function barriers(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(
    (runOnly) => globalThis.axe.run(document, { runOnly }),
    RULES,
  );
  return violations.map((it) => `${it.id}: ${it.nodes.map((node) => node.target).join(', ')}`);
}

export const tooWide = (page) =>
  page.evaluate(() => Math.max(0, document.documentElement.scrollWidth - innerWidth));

/** A click on the button of the page, or of its dialog, that has the word. */
export const clickOn = (page, word, at = '.bar-top button') =>
  page.$$eval(
    at,
    (all, text) => all.find((it) => it.textContent.includes(text) && !it.disabled).click(),
    word,
  );

export const noDialog = (page) => page.waitForFunction(() => !document.querySelector('dialog'), WAIT);

export const typePatch = (page, text) =>
  page.$eval(
    'dialog textarea',
    (area, value) => {
      area.value = value;
      area.dispatchEvent(new Event('input', { bubbles: true }));
    },
    text,
  );

/** The previews that a page requested and was sent, in their order. */
export function answersOf(page) {
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

export const count = (n) => new Intl.NumberFormat('en').format(n);
export const tiles = (page) =>
  page.$$eval('.answer .tile .big', (all) => all.map((it) => it.textContent));
/** The drawn loads: hostname, now, then, change. */
export const loadRows = (page) =>
  page.$$eval('.loads tbody tr', (all) =>
    all.map((row) => [
      row.querySelector('a').title,
      ...[...row.querySelectorAll('.num')].map((it) => it.firstChild.textContent),
    ]),
  );
export const rowsOfLoads = (changes) =>
  [...changes]
    .sort((a, b) => Math.abs(b.delta) - Math.abs(a.delta) || (a.hostname < b.hostname ? -1 : 1))
    .slice(0, 50)
    .map(({ hostname, before, after, delta }) => [
      hostname,
      count(before),
      count(after),
      `${delta > 0 ? '+' : ''}${count(delta)}`,
    ]);
