// The layouter: its switch and its pauses.
import assert from 'node:assert/strict';
import { call, count, go, loggedIn, textOf, WAIT, waitText, within } from '../pages.mjs';

export const CHECKS = {
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
    // The moves of the last hour are those that the layouter counts, however many runs it had.
    const isCounted = async () => {
      for (;;) {
        const { by_reason: moves } = (await call('GET', '/layouter')).moves_1h;
        const total = Object.values(moves).reduce((sum, n) => sum + n, 0);
        assert.ok(total > 0, 'the layouter placed streams');
        if ((await textOf(page, '.tiles .tile:nth-child(2) .big')) === count(total)) return;
      }
    };
    await within(isCounted(), 'the moves of the last hour');
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
};
