// Streams: what is shown of them, and edits.
import assert from 'node:assert/strict';
import {
  administrator,
  API,
  barriers,
  base,
  call,
  clickOn,
  go,
  key,
  loggedIn,
  logIn,
  noDialog,
  open,
  readStreams,
  statusOf,
  typePatch,
  WAIT,
  waitText,
  within,
} from '../pages.mjs';

/** The button of a dialog, once what it does was counted. */
const CONFIRM = 'dialog[open] footer button.primary:not(:disabled)';

export const CHECKS = {
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

  async 'an integer keeps its digits where JSON has no source text'(browser) {
    const integer = '-9007199254740993';
    const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' };
    const body = `{"position":${integer}}`;
    await fetch(`${API}/streams/integers-as-text`, { method: 'PUT', headers, body });
    const { page, context, reports } = await open(browser, { hash: '#/streams/integers-as-text' });
    await page.evaluateOnNewDocument(() => {
      const whole = JSON.parse;
      JSON.parse = (text, reviver) =>
        whole(text, reviver && ((name, value) => reviver(name, value)));
    });
    await page.reload();
    await logIn(page);
    await waitText(page, 'pre.json', integer);
    reports.length = 0;
    // A save is about the version that is shown, by the tag of its form.
    await clickOn(page, 'Disable');
    await page.waitForSelector(CONFIRM, WAIT);
    await page.click(CONFIRM);
    await waitText(page, '.bar-top button', 'Enable');
    const saved = await fetch(`${API}/streams/integers-as-text`, { headers: administrator });
    assert.match(await saved.text(), /"disabled":true.*"position":-9007199254740993\b/);
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
    await page.waitForSelector('dialog[open] textarea', WAIT);
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

  async 'a stream shows the best streamers for it, and the obstacles of others'(browser) {
    const path = '/streams/cam%2Fgraz%2Fgate-1';
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams' });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const asked = [];
    page.on('request', (request) => {
      if (request.url().includes('/layout/explain')) asked.push(new URL(request.url()).search);
    });
    await go(page, `#${path}`);
    await page.waitForSelector('table.plain tbody tr.here', WAIT);
    const rows = await page.$$eval('table.plain tbody tr', (all) =>
      all.map((row) => [
        row.querySelector('a').title,
        ...[...row.querySelectorAll('.num')].map((it) => it.textContent),
      ]),
    );
    const { nodes, groups } = await call('GET', `${path}/layout/explain?group=reasons`);
    const able = nodes.filter((node) => node.role === 'ingest' && node.node_decision);
    assert.deepEqual(
      rows.map(([hostname]) => hostname).toSorted(),
      able.map(({ hostname }) => hostname).toSorted(),
    );
    for (const [hostname, labels, load] of rows) {
      assert.match(`${labels}, ${load}`, /^0, \d+ %$/, hostname);
    }
    const obstacles = groups.filter(({ role, reasons }) => role === 'ingest' && reasons.length);
    assert.ok(obstacles.length > 0, 'one was never seen');
    const shown = await page.$$eval('details.not', (all) =>
      all.map((it) => [
        parseInt(it.querySelector('summary').textContent.trim(), 10),
        it.querySelectorAll('.hosts a').length,
      ]),
    );
    assert.deepEqual(
      shown,
      obstacles.map(({ nodes: count, hostnames }) => [count, hostnames.length]),
    );
    assert.ok(asked.length > 0 && asked.every((it) => it === '?group=reasons'), String(asked));
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'a stream is deleted by its name, in the version that is shown'(browser) {
    const name = 'deleted/<b>1';
    const path = `/streams/${encodeURIComponent(name)}`;
    await call('PUT', path, { title: 'shown', layout: { ingest: 'edge-1.example.com' } });
    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    await waitText(page, '.facts', 'edge-1');
    const open = async () => {
      await clickOn(page, 'Delete');
      await page.waitForSelector('dialog footer .danger:disabled', WAIT);
    };
    await open();
    const host = (await call('GET', path)).layout.ingest;
    const lead = `It stops on ${host}, and its recordings there are erased. No viewer is watching.`;
    await waitText(page, 'dialog .lead', lead);
    assert.deepEqual(await barriers(page), []);
    await page.type('dialog input', name.slice(0, -1));
    assert.equal(await page.$eval('dialog footer .danger', (it) => it.disabled), true);
    await page.keyboard.type(name.slice(-1));
    await page.waitForSelector('dialog footer .danger:not(:disabled)', WAIT);
    // Another change comes before the click: the question was about the version before it.
    await call('PUT', path, { title: 'needed' });
    await waitText(page, '.facts-line .title', 'needed');
    await page.click('dialog footer .danger');
    await waitText(page, 'dialog .failure', 'Another change came first');
    assert.equal(await statusOf(name), 200);
    await page.keyboard.press('Escape');
    await noDialog(page);
    await open();
    await page.type('dialog input', name);
    await page.waitForSelector('dialog footer .danger:not(:disabled)', WAIT);
    await page.keyboard.press('Enter');
    await page.waitForSelector('.t-streams .tbody', WAIT);
    assert.equal(await page.evaluate(() => location.hash), '#/streams');
    assert.equal(await statusOf(name), 404);
    assert.deepEqual(
      reports.filter((report) => !/status of (404|412)/.test(report)),
      [],
    );
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
    await page.waitForSelector(CONFIRM, WAIT);
    await page.click(CONFIRM);
    await noDialog(page);
    await waitText(page, toggle, 'Enable');
    await page.click(toggle);
    await page.waitForSelector(CONFIRM, WAIT);
    await call('DELETE', '/streams/gone-shown');
    await page.click(CONFIRM);
    await waitText(page, 'dialog .failure', 'was deleted meanwhile');
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
    await page.click('.bulk button');
    await waitText(page, CONFIRM, 'Disable: 3 streams');
    await call('DELETE', '/streams/gone-b');
    await page.click(CONFIRM);
    await waitText(page, 'dialog .failure', 'gone-b was deleted meanwhile. Nothing was changed.');
    assert.equal(await statusOf('gone-b'), 404);
    const { disabled } = await call('GET', '/streams/gone-a');
    assert.ok(!disabled, 'all or none');
    // The dialog goes on with those that exist, which are counted first.
    await waitText(page, CONFIRM, 'Count them');
    await page.click(CONFIRM);
    await waitText(page, CONFIRM, 'Disable: 2 streams');
    await page.click(CONFIRM);
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

  async 'a stream is placed by hand after a verdict, and kept there'(browser) {
    const path = '/streams/by-hand';
    await call('PUT', path, { labels: { 'required.site': 'fra' } });
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams/by-hand' });
    await waitText(page, '.facts', 'edge-');
    const { ingest } = (await call('GET', path)).layout;
    const sent = [];
    page.on('request', (request) => {
      if (request.url().includes('/streams/layouts')) sent.push(request);
    });
    const begin = async () => {
      await clickOn(page, 'Move');
      await page.waitForSelector('dialog[open] input[name=ingest]', WAIT);
    };
    const button = 'dialog[open] footer button.primary';
    const confirm = async (word) => {
      await waitText(page, `${button}:not(:disabled)`, word);
      await page.click(button);
    };
    const to = (host) =>
      page.$eval(
        'dialog input[name=ingest]',
        (input, text) => {
          input.value = text;
          input.dispatchEvent(new Event('input', { bubbles: true }));
        },
        host,
      );
    await begin();
    assert.equal(await page.$eval('dialog input[name=ingest]', (it) => it.value), ingest);
    // Where it may not be: the verdict says why, and the server refuses the move.
    await to('edge-4.example.com');
    await confirm('Check');
    await waitText(page, 'dialog .verdicts', '1 stream would be moved away again: does not have');
    await confirm('Move: 1 stream');
    await waitText(page, 'dialog .failure', '409 illegal_layout');
    assert.equal((await call('GET', path)).layout.ingest, ingest);
    // Where it is, and kept there. What is typed needs a verdict of its own.
    await to(ingest);
    await confirm('Check');
    await waitText(page, 'dialog .verdicts', '1 stream stays there.');
    await page.click('dialog input[name=pinned]');
    await confirm('Check');
    await waitText(page, 'dialog .verdicts', '1 stream stays there.');
    // The verdict is of one version, and so is the move.
    await call('PUT', path, { title: 'meanwhile' });
    await confirm('Move: 1 stream');
    await waitText(page, 'dialog .failure', 'Another change came first');
    assert.equal((await call('GET', path)).layout.pinned ?? false, false);
    await confirm('Check');
    await confirm('Move: 1 stream');
    await noDialog(page);
    await waitText(page, '.facts', 'kept there by hand');
    assert.equal((await call('GET', path)).layout.pinned, true);
    for (const request of sent) {
      const [item] = JSON.parse(request.postData()).layouts;
      assert.match(item.if_match, /^"/, 'the version that was judged');
    }
    // It may be put elsewhere, and is not kept any more.
    await begin();
    assert.equal(await page.$eval('dialog input[name=pinned]', (it) => it.checked), true);
    await page.click('dialog input[name=pinned]');
    const other = ['edge-1', 'edge-2'].map((it) => `${it}.example.com`).find((it) => it !== ingest);
    await to(other);
    await confirm('Check');
    await confirm('Move: 1 stream');
    await noDialog(page);
    const { layout } = await call('GET', path);
    assert.deepEqual([layout.ingest, layout.pinned ?? false], [other, false]);
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !/status of (409|412)/.test(report)),
      [],
    );
    await context.close();
    await call('DELETE', path);
  },

  async 'picked streams are moved and deleted'(browser) {
    const all = ['a', 'b', 'c', '<i>d'].map((end) => `chosen/ä&${end}`);
    await call('PUT', '/streams/batch', all.map((name) => ({ name, title: 'chosen' })));
    const read = async (name) => call('GET', `/streams/${encodeURIComponent(name)}`);
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams?q=chosen/' });
    const pick = async (names) => {
      await page.waitForFunction(
        () => document.querySelectorAll('.t-streams .tbody input[type=checkbox]').length > 0,
        WAIT,
      );
      for (const [picked, name] of names.entries()) {
        const box = `.t-streams .tbody input[aria-label="Select ${name}"]`;
        await page.waitForSelector(box, WAIT);
        await page.click(box);
        await waitText(page, '.bulk', `${picked + 1} selected`);
      }
    };
    const button = 'dialog[open] footer button:nth-of-type(2)';
    const confirm = async (word) => {
      await waitText(page, `${button}:not(:disabled)`, word);
      await page.click(button);
    };
    const [first, second, third, fourth] = all;
    await pick([first, second, fourth]);
    await page.click('.bulk ::-p-text(Move)');
    await page.waitForSelector('dialog[open] input[name=ingest]', WAIT);
    await page.type('dialog input[name=ingest]', 'edge-3.example.com');
    await page.click('dialog input[name=pinned]');
    await confirm('Check');
    await waitText(page, 'dialog .verdicts', '3 streams stay there.');
    // One that is gone by then is named, and nothing is moved; the others can be.
    await call('DELETE', `/streams/${encodeURIComponent(second)}`);
    await confirm('Move: 3 streams');
    await waitText(page, 'dialog .failure', 'was deleted meanwhile. Nothing was changed.');
    assert.notEqual((await read(first)).layout?.pinned, true);
    await confirm('Check');
    await waitText(page, 'dialog .verdicts', '2 streams stay there.');
    await confirm('Move: 2 streams');
    await noDialog(page);
    for (const name of [first, fourth]) {
      const { ingest, pinned } = (await read(name)).layout;
      assert.deepEqual([ingest, pinned], ['edge-3.example.com', true], name);
    }
    assert.notEqual((await read(third)).layout?.pinned, true, 'it was not picked');
    assert.equal(await statusOf(second), 404, 'it is not made again');

    await pick([first, fourth]);
    await page.click('.bulk ::-p-text(Delete)');
    await waitText(page, 'dialog .names', '<i>d');
    await confirm('Delete: 2 streams');
    await noDialog(page);
    await waitText(page, '.bar-top h1 small', '1');
    for (const name of [first, fourth]) assert.equal(await statusOf(name), 404, name);
    assert.equal(await statusOf(third), 200);
    assert.deepEqual(
      reports.filter((report) => !/status of 400/.test(report)),
      [],
    );
    await context.close();
    await call('DELETE', `/streams/${encodeURIComponent(third)}`);
  },

  async 'picked streams are changed after an answer to what would move'(browser) {
    const host = 'picked-1.example.com';
    const path = `/streamers/${host}`;
    await call('PUT', path, { role: 'streamer', cluster_key: 'k', labels: { only: 'picked' } });
    await readStreams(path);
    const all = ['a', 'b', 'c'].map((end) => `picked/${end}`);
    const labels = { 'required.only': 'picked' };
    await call('PUT', '/streams/batch', all.map((name) => ({ name, labels })));
    const layouts = all.map((name) => ({ name, ingest: host }));
    await call('POST', '/streams/layouts', { layouts });
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streams?q=picked/' });
    const bodies = [];
    page.on('request', (request) => {
      if (request.url().includes('batch')) bodies.push(JSON.parse(request.postData()));
    });
    for (const [picked, name] of all.slice(0, 2).entries()) {
      const box = `.t-streams .tbody input[aria-label="Select ${name}"]`;
      await page.waitForSelector(box, WAIT);
      await page.click(box);
      await waitText(page, '.bulk', `${picked + 1} selected`);
    }
    // Nothing has their label any more: they would be without a streamer.
    await page.click('.bulk ::-p-text(Set label)');
    await page.waitForSelector('dialog[open] input[name=value]', WAIT);
    await page.type('dialog input[name=value]', 'required.only=nowhere');
    await page.click(CONFIRM);
    await waitText(page, 'dialog .consequences', '2 streams would have no place.');
    assert.deepEqual(await barriers(page), []);
    const read = async (name) => call('GET', `/streams/${encodeURIComponent(name)}`);
    assert.deepEqual((await read(all[0])).labels, labels, 'it was a question');
    await page.keyboard.press('Escape');
    await noDialog(page);
    await page.click('.bulk ::-p-text(Disable)');
    await waitText(page, CONFIRM, 'Disable: 2 streams');
    await waitText(page, 'dialog .consequences', 'picked/a');
    await page.click(CONFIRM);
    await noDialog(page);
    const states = await Promise.all(all.map(async (name) => (await read(name)).disabled ?? false));
    assert.deepEqual(states, [true, true, false]);
    const saved = bodies.at(-1).map(({ name, if_match }) => [name, if_match]);
    assert.deepEqual(saved, all.slice(0, 2).map((name) => [name, '*']), 'one batch of both');
    // On the screen of one stream it is the same question.
    await go(page, `#/streams/${encodeURIComponent(all[2])}`);
    await waitText(page, '.bar-top button', 'Disable');
    await clickOn(page, 'Disable');
    await waitText(page, CONFIRM, 'Disable and move 1 stream');
    await waitText(page, 'dialog .move', all[2]);
    assert.equal((await read(all[2])).disabled ?? false, false, 'it was a question');
    await page.click(CONFIRM);
    await waitText(page, '.bar-top button', 'Enable');
    assert.equal((await read(all[2])).disabled, true);
    assert.deepEqual(reports, []);
    await context.close();
    for (const name of all) await call('DELETE', `/streams/${encodeURIComponent(name)}`);
    await call('DELETE', path);
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
    await page.waitForSelector('dialog[open] textarea', WAIT);
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
    // The server names the kinds that it knows; those of the layouter's steps are never written.
    const headers = administrator;
    const refused = await (await fetch(`${API}/events?event=none`, { headers })).json();
    const known = refused.errors[0].title.split(': ')[1].split(', ');
    const written = known.filter((it) => !/^layouter_(process_|fetching|entity)/.test(it));
    const offered = await page.$$eval('.bar-top select option', (all) =>
      all.map((it) => it.value).filter(Boolean),
    );
    assert.deepEqual(offered.sort(), written.sort());
    assert.deepEqual(reports, []);
    await context.close();
  },

  async 'events are filtered by their user and their time'(browser) {
    const permissions = [{ scopes: ['streams/*'], list: true, read: true, write: true }];
    const { key: token } = await call('PUT', '/api_tokens/of-events', { permissions });
    const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' };
    const save = (name) =>
      fetch(`${API}/streams/${name}`, { method: 'PUT', headers, body: '{"title":"x"}' });
    assert.equal((await save('by-token')).status, 200);
    await call('PUT', '/streams/by-key', { title: 'x' });
    const { page, context, reports } = await loggedIn(browser, { hash: '#/events' });
    await waitText(page, '.log .line', 'by-key');
    await page.type('.bar-top input[aria-label="User or token"]', 'of-events');
    const isTheirs = () => {
      const users = [...document.querySelectorAll('.log .line b')].map((it) => it.textContent);
      return users.length > 0 && users.every((user) => user === 'of-events');
    };
    await page.waitForFunction(isTheirs, WAIT).catch(async () => {
      const seen = await page.$$eval('.log .line', (all) => all.map((it) => it.textContent));
      assert.fail(`other users: ${JSON.stringify(seen).slice(0, 2000)}`);
    });
    await waitText(page, '.log .line', 'by-token');
    assert.match(await page.evaluate(() => location.hash), /user=of-events/);
    assert.deepEqual(await barriers(page), []);
    // New ones pass the same filters.
    await waitText(page, '.live', 'Live');
    await call('PUT', '/streams/by-key', { title: 'y' });
    assert.equal((await save('by-token-again')).status, 200);
    await waitText(page, '.log .line', 'by-token-again');
    const lines = () => page.$$eval('.log .line', (all) => all.map((it) => it.textContent));
    assert.ok(!(await lines()).some((line) => line.includes('by-key')), String(await lines()));
    // From a later time on there is none; before it there are some.
    const hour = 3_600_000;
    for (const [at, text] of [[hour, 'No event matches'], [-hour, 'by-token-again']]) {
      const from = new Date(Date.now() + at).toISOString();
      await go(page, `#/events?user=of-events&from=${from}`);
      await waitText(page, '.log', text);
      const [field, shown] = await page.$eval('.bar-top input[type=datetime-local]', (it) => [
        new Date(it.value).getTime(),
        it.value,
      ]);
      assert.equal(field, Math.floor(Date.parse(from) / 60_000) * 60_000, shown);
    }
    await page.$eval('.bar-top input[type=datetime-local]', (it) => {
      it.value = '2026-01-01T00:00';
      it.dispatchEvent(new Event('change', { bubbles: true }));
    });
    await page.waitForFunction(() => /from=202(5-12-31|6-01-01)T/.test(decodeURIComponent(location.hash)), WAIT);
    assert.deepEqual(reports, []);
    await go(page, '#/events?from=yesterday');
    await waitText(page, 'main .failure', 'utc_ms_gte');
    await clickOn(page, 'Clear filters', '.bar-top a');
    await waitText(page, '.log .line', 'by-key');
    assert.equal(await page.evaluate(() => location.hash), '#/events');
    await context.close();
  },
};
