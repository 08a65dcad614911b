// Questions to the layouter, and their answers.
import assert from 'node:assert/strict';
import {
  answersOf,
  call,
  count,
  go,
  loadRows,
  loggedIn,
  readStreams,
  rowsOfLoads,
  SIZES,
  textOf,
  tiles,
  WAIT,
  waitText,
  within,
} from '../pages.mjs';

export const CHECKS = {
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
};
