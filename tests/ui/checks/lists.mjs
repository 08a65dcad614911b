// Lists: their numbers, search, filters, rows in view and keys.
import assert from 'node:assert/strict';
import {
  barriers,
  call,
  ELEMENTS_MAX,
  go,
  loggedIn,
  names,
  readStreams,
  textOf,
  WAIT,
  waitText,
  within,
} from '../pages.mjs';

/**
 * Saves a streamer with streams of each health that a stream can have. Returns the healths of all
 * streams and of all streamers when the summary has them.
 */
async function saveOneOfEachHealth(host) {
  await call('PUT', `/streamers/${host}`, {
    role: 'streamer',
    cluster_key: 'k',
    labels: { only: 'health' },
  });
  const reports = {
    operational: { status: 'running', alive: true },
    degradated: { status: 'running', alive: false },
    outage: { status: 'error' },
  };
  const streams = ['disabled', 'none', ...Object.keys(reports)].map((name) => ({
    name: `health/${name}`,
    disabled: name === 'disabled',
    labels: { 'required.only': 'health' },
    layout: { ingest: host },
  }));
  await call('PUT', '/streams/batch', streams);
  const reported = Object.entries(reports);
  await readStreams(`/streamers/${host}`);
  await call('PUT', `/streamers/${host}/stats`, {
    stats: { cpu_usage: 10, memory_usage: 10 },
    streams: reported.map(([name, report]) => ({ name: `health/${name}`, ...report })),
  });
  const has = ({ streams: counts }) => counts.degradated > 0;
  const summary = async () => {
    let read = await call('GET', '/cluster/summary');
    while (!has(read)) read = await call('GET', '/cluster/summary');
    return read;
  };
  const read = await within(summary(), 'a degraded stream in the summary');
  const healths = ['operational', 'degradated', 'partial_outage', 'outage', 'disabled'];
  const found = (counts) => healths.filter((health) => counts[health] > 0);
  return { streams: found(read.streams), streamers: found(read.streamers) };
}

export const CHECKS = {
  async 'a number on the overview is the count of the list behind it'(browser) {
    const host = 'health-1.example.com';
    const healths = await saveOneOfEachHealth(host);
    const { page, context, reports } = await loggedIn(browser);
    await page.waitForSelector('.needs li a', WAIT);
    const tiles = await page.$$eval('.tile a.whole', (all) =>
      all.map((tile) => [tile.href, tile.querySelector('.big').textContent]),
    );
    const parts = await page.$$eval('.tile .note a', (all) => all.map((it) => [it.href, it.title]));
    for (const [screen, expected] of Object.entries(healths)) {
      const shown = parts.filter(([to]) => to.includes(`#/${screen}?health=`));
      const named = shown.map(([to]) => new URL(to).hash.split('=')[1]);
      assert.deepEqual(named.toSorted(), expected.toSorted(), screen);
    }
    const needs = await page.$$eval('.needs li > a[href*="placed"]', (all) =>
      all.map((need) => [need.href, need.textContent.split(' ')[0]]),
    );
    assert.equal(tiles.length, 2);
    const isCountOf = async (to, number) => {
      await go(page, new URL(to).hash);
      const isShown = (text) =>
        document.querySelector('.bar-top h1 small')?.textContent.trim() === text;
      await page.waitForFunction(isShown, WAIT, number).catch(async () => {
        assert.equal(await textOf(page, '.bar-top h1 small'), number, to);
      });
    };
    for (const [to, number] of [...tiles, ...parts, ...needs]) await isCountOf(to, number);
    await go(page, '#/streamers?health=degradated');
    await waitText(page, '.chips button[aria-pressed=true]', 'Degraded');
    // A change of all that match takes the same streams.
    const bulk = '/streams/batch_by_filter?health=degradated&q=health/';
    assert.equal((await call('POST', bulk, { patch: { title: 'x' } })).count, 1);
    // The outages of a streamer lead to those streams, not to all of it.
    await go(page, `#/streamers?q=${host}`);
    await waitText(page, '.t-streamers [data-col=errors] a', '2');
    const outages = await page.$eval('.t-streamers [data-col=errors] a', (it) => it.href);
    await isCountOf(outages, '2');
    assert.deepEqual(await names(page), ['health/none', 'health/outage']);
    assert.ok(await page.$('.t-streams [data-col=status] [aria-label="Outage"]'));
    assert.deepEqual(reports, []);
    await context.close();
    for (const { name } of (await call('GET', '/streams?q=health/&select=name')).streams) {
      await call('DELETE', `/streams/${encodeURIComponent(name)}`);
    }
    await call('DELETE', `/streamers/${host}`);
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

  async 'labels are offered where they are typed'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams' });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const read = [];
    page.on('request', (request) => read.push(new URL(request.url()).pathname));
    assert.equal(await page.$('main datalist'), null, 'nothing is counted before it is used');
    await page.focus('.chips input[type=search]');
    await page.waitForSelector('main datalist option[value="customer=acme"]', WAIT);
    assert.equal(read.filter((path) => path.endsWith('/facets')).length, 1, String(read));
    assert.deepEqual(await barriers(page), []);
    await page.keyboard.type('customer=borealis');
    const { estimated_count: expected } = await call(
      'GET',
      '/streams?labels.customer=borealis&limit=1&select=name',
    );
    await page.waitForFunction(
      (count) => document.querySelector('.bar-top h1 small').textContent === count,
      WAIT,
      String(expected),
    );
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
};
