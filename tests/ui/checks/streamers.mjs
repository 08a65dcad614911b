// Streamers: maintenance, drains, edits and deletions.
import assert from 'node:assert/strict';
import {
  administrator,
  answersOf,
  API,
  barriers,
  call,
  clickOn,
  go,
  loadRows,
  loggedIn,
  noDialog,
  readStreams,
  rowsOfLoads,
  SIZES,
  textOf,
  tooWide,
  typePatch,
  WAIT,
  waitText,
  within,
} from '../pages.mjs';

export const CHECKS = {
  async 'lines show the last half hour of what was reported'(browser) {
    const host = 'edge-1.example.com';
    const { page, context, reports } = await loggedIn(browser, { hash: '#/overview' });
    const drawn = (field) =>
      page.waitForSelector(`main .line[data-field="${field}"] path[d^="M"]`, WAIT);
    for (const field of ['input_kbit', 'output_kbit', 'clients']) await drawn(field);
    const sent = [];
    page.on('request', (request) => sent.push(new URL(request.url())));
    await go(page, '#/streamers');
    await drawn(host);
    const [first] = sent.filter(({ pathname }) => pathname.endsWith('/streamers/histories'));
    const names = first.searchParams.get('hostname').split(',');
    assert.ok(names.includes(host) && names.length <= 75, String(names));
    assert.deepEqual(await barriers(page), []);
    // One that does not report has no line, and is not refused.
    const silent = 'main .line[data-field="edge-6.example.com"]';
    await page.waitForSelector(silent, WAIT);
    assert.equal(await page.$(`${silent} path`), null);
    await go(page, `#/streamers/${host}`);
    for (const field of ['cpu', 'memory', 'input_kbit', 'output_kbit']) await drawn(field);
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'streamers are searched, sorted and paged by the server'(browser) {
    const all = Array.from({ length: 130 }, (_, n) => `paged-${1000 + n}.example.com`);
    const saved = all.map((hostname, n) => ({
      hostname,
      role: 'streamer',
      cluster_key: 'k',
      labels: { rack: n < 105 ? 'a' : 'b', 'required.only': 'paged' },
    }));
    await call('PUT', '/streamers/batch', saved);
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams' });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const lists = [];
    page.on('request', (request) => {
      const { pathname, searchParams } = new URL(request.url());
      if (pathname.endsWith('/streamers')) lists.push(searchParams);
    });
    const hosts = () =>
      page.$$eval('.t-streamers .tbody a.name', (rows) => rows.map((it) => it.title));
    await go(page, '#/streamers?q=PAGED-');
    await waitText(page, '.bar-top h1 small', '130');
    await waitText(page, '.t-streamers .tbody', 'paged-1000');
    const drawn = await page.$$eval('.t-streamers .tbody .tr', (rows) => rows.length);
    assert.ok(drawn < 100, `${drawn} rows are drawn`);
    await page.$eval('.t-streamers', (table) => table.scrollTo(0, table.scrollHeight));
    await page.waitForFunction(
      () => document.querySelector('.t-streamers').scrollHeight > 130 * 40,
      WAIT,
    );
    await page.$eval('.t-streamers', (table) => table.scrollTo(0, table.scrollHeight));
    await waitText(page, '.t-streamers .tbody', 'paged-1129');
    assert.equal(lists.filter((list) => list.get('cursor')).length, 1, 'the second page');
    await go(page, '#/streamers?q=paged-&sort=-hostname');
    await waitText(page, '.t-streamers .tbody', 'paged-1129');
    assert.equal((await hosts())[0], 'paged-1129.example.com');
    await go(page, '#/streamers?label=rack=b');
    await waitText(page, '.bar-top h1 small', '25');
    assert.deepEqual(await hosts(), all.slice(105).slice(0, (await hosts()).length));
    await go(page, '#/streamers?view=grid&group=rack&q=paged-');
    await waitText(page, '.cells h2', 'b');
    await page.waitForFunction(() => document.querySelectorAll('.cell').length === 130, WAIT);
    const groups = await page.$$eval('.cells h2', (heads) => heads.map((it) => it.textContent));
    assert.match(groups[0], /^a 105 ·/);
    assert.match(groups[1], /^b 25 ·/);
    assert.deepEqual(await barriers(page), []);
    for (const list of lists) assert.ok(Number(list.get('limit')) <= 100, String(list));
    // One that is saved or deleted elsewhere appears and goes.
    await call('PUT', '/streamers/paged-2000.example.com', { role: 'streamer', cluster_key: 'k' });
    await waitText(page, '.bar-top h1 small', '131');
    await call('DELETE', '/streamers/paged-2000.example.com');
    await waitText(page, '.bar-top h1 small', '130');
    assert.deepEqual(reports, []);
    await context.close();
    for (const hostname of all) await call('DELETE', `/streamers/${hostname}`);
  },

  async 'a streamer is cordoned with a reason, marked, and put back'(browser) {
    const host = 'cordon-1.example.com';
    const path = `/streamers/${host}`;
    // No stream of the fixture may be put there.
    const labels = { 'required.only': 'cordon' };
    await call('PUT', path, { role: 'streamer', cluster_key: 'k', labels });
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
    // It is a number of the overview, which leads to its list. One that may be lost is that first.
    const isCounted = async () => {
      do await readStreams(path);
      while ((await call('GET', '/cluster/summary')).streamers.states.cordoned !== 1);
    };
    await within(isCounted(), 'a cordoned streamer in the summary');
    await go(page, '#/overview');
    await waitText(page, '.tile .note a', '1 cordoned');
    const to = await page.$eval('.tile .note a[href*="state="]', (it) => new URL(it.href).hash);
    assert.equal(to, '#/streamers?state=cordoned');
    const isAlone = () =>
      page.waitForFunction(
        () =>
          document.querySelectorAll('.t-streamers .tbody a.name').length === 1 &&
          document.querySelector('.bar-top h1 small').textContent === '1',
        WAIT,
      );
    await go(page, to);
    await isAlone();
    // It is marked in both views of the list, which it can be filtered by.
    await go(page, '#/streamers');
    await waitText(page, '.t-streamers .label.cordoned', 'Cordoned');
    assert.ok(await page.$('.t-streamers .label.cordoned .mark.pause'));
    await waitText(page, '.chips button', 'Cordoned 1');
    await clickOn(page, 'Cordoned', '.chips button');
    await isAlone();
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
    // The preview moves nothing to one that the layouter has not seen yet.
    const isUp = async (of) => (await call('GET', of)).state.code === 'up';
    do await alive();
    while (!((await isUp(path)) && (await isUp(second))));

    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    await page.waitForSelector('.bar-top button:not(:disabled)', WAIT);
    await clickOn(page, 'Drain');
    await waitText(page, 'dialog footer button.primary', 'Drain 2 streams');
    await waitText(page, 'dialog .consequences', '1 stream would stay there');
    await waitText(page, 'dialog .consequences li', 'drained-on/');
    const targets = await page.$$eval('dialog .targets li', (all) =>
      all.map((it) => it.textContent.trim()),
    );
    assert.deepEqual(targets, [`2 to ${other}`]);
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
    const paces = [];
    page.on('request', (request) => {
      if (request.url().endsWith('dry_run=true')) paces.push(JSON.parse(request.postData()).pace);
    });
    await type('pace', 'fast');
    await waitText(page, 'dialog .failure', '/pace');
    assert.equal(await page.$eval('dialog footer button.primary', (it) => it.disabled), true);
    assert.equal((await call('GET', path)).state.maintenance, undefined, 'nothing has begun');
    await type('pace', '0');
    await type('deadline', '2h');
    await type('reason', 'new <b>disks</b>');
    await page.click('dialog input[name=return]');
    await waitText(page, 'dialog footer button.primary:not(:disabled)', 'Drain 2 streams');
    assert.deepEqual(paces, ['fast', 0], 'each pace is previewed as it is typed');
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
    await page.waitForSelector('dialog[open] textarea', WAIT);
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
    await alive();
    await page.click('dialog footer button.primary');
    await waitText(page, 'dialog .conflict', 'labels.since');
    assert.equal((await call('GET', path)).channel_limit, 9, 'nothing was changed');
    await waitText(page, 'dialog footer button.primary', 'Save yours on top and move 2 streams');
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
    await second.page.waitForSelector('dialog[open] textarea', WAIT);
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
    await third.page.waitForSelector('dialog[open] input[name=reason]', WAIT);
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
};
