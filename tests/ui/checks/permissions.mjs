// Sessions that may read only, or a part.
import assert from 'node:assert/strict';
import {
  call,
  clickOn,
  count,
  go,
  loadRows,
  loggedIn,
  textOf,
  WAIT,
  waitText,
} from '../pages.mjs';

export const CHECKS = {
  async 'a token that only reads may not change anything'(browser) {
    const permissions = [{ scopes: ['streams/*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/reader', { permissions });
    const hash = '#/streams/cam%2Fgraz%2Fgate-1';
    const { page, context } = await loggedIn(browser, { hash, credential: reader });
    await waitText(page, 'main h1', 'cam/graz/gate-1');
    const buttons = await page.$$eval('.bar-top button', (all) =>
      all.map((it) => [it.textContent, it.disabled, it.title]),
    );
    const why = 'This credential may not change anything';
    assert.deepEqual(
      buttons,
      ['Disable', 'Move …', 'Delete …', 'Edit …'].map((word) => [word, true, why]),
    );
    const screens = await page.$$eval('.rail a span', (all) => all.map((it) => it.textContent));
    assert.deepEqual(screens, ['Streams'], 'others are not in the menu');
    // What it may not read is refused in words; the rest stays.
    await go(page, '#/overview');
    await waitText(page, 'main .failure', 'permission');
    await waitText(page, '.live', 'By the clock');
    await context.close();
  },

  async 'a token of streamers filters them by state, without counts of the cluster'(browser) {
    const permissions = [{ scopes: ['streamers/*'], list: true, read: true }];
    const { key: token } = await call('PUT', '/api_tokens/of-streamers', { permissions });
    const { page, context } = await loggedIn(browser, { hash: '#/events', credential: token });
    const asked = [];
    page.on('request', (request) => asked.push(new URL(request.url()).pathname));
    await go(page, '#/streamers');
    await waitText(page, '.t-streamers .tbody', 'edge-1');
    const words = await page.$$eval('.chips button', (all) => all.map((it) => it.textContent.trim()));
    assert.deepEqual(
      words,
      ['Up', 'On probation', 'Not certain', 'Down', 'Draining', 'Drained', 'Cordoned'],
    );
    await clickOn(page, 'Drained', '.chips button');
    await waitText(page, '.t-streamers .empty', 'No streamer matches');
    assert.ok(!asked.some((path) => path.includes('/cluster/')), String(asked));
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

  async 'a token of one folder sees its part on every screen'(browser) {
    const host = 'edge-1.example.com';
    const all = { list: true, read: true, execute: true };
    const scopes = ['streams/cam%2Fgraz%2F*', `streamers/${host}`, 'cluster'];
    const permissions = scopes.map((scope) => ({ scopes: [scope], ...all }));
    const { key: folder } = await call('PUT', '/api_tokens/folder-part', { permissions });
    const { page, context } = await loggedIn(browser, { hash: '#/streams', credential: folder });
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    const streams = await textOf(page, '.bar-top h1 small');
    const { estimated_count } = await call('GET', '/streams?q=cam/graz/&limit=1');
    assert.equal(streams, count(estimated_count));
    const menu = await page.$$eval('.rail a span', (links) => links.map((it) => it.textContent));
    assert.deepEqual(menu, ['Overview', 'Streamers', 'Streams', 'What if', 'More']);
    const own = '#/streams/cam%2Fgraz%2Fgate-10';
    // Screens, and what they show when their answer is there.
    const visits = [
      ['#/streams', '.t-streams .tbody .name'],
      ['#/overview', '.tile'],
      ['#/streamers', '.t-streamers .tbody .name'],
      [`#/streamers/${host}`, '.t-on-streamer .tbody'],
      [own, '.json'],
      ['#/events', '.failure'],
      [`#/whatif?kind=lose&hosts=${host}`, '.answer .tile'],
      ['#/layouter', '.failure'],
      ['#/streams/cam%2Fberlin%2Fgate-9', '.failure'],
      ['#/streamers/edge-2.example.com', '.failure'],
      ['#/whatif?kind=lose&hosts=edge-2.example.com', '.answer .tile'],
    ];
    for (const [hash, selector] of visits) {
      await go(page, hash);
      const found = page.waitForSelector(`main ${selector}`, WAIT);
      await found.catch(async (error) => {
        const seen = (await textOf(page, 'main')).slice(0, 500);
        throw new Error(`${hash}: no ${selector} in ${seen}`, { cause: error });
      });
      const shown = await page.evaluate(() => document.querySelector('main').outerHTML);
      const outside = shown.replaceAll('%2F', '/').match(/cam\/(?!graz\/)[\w/-]*|Gate 9\b/g);
      assert.deepEqual(outside, null, hash);
      if (hash === '#/streamers') {
        const hosts = await page.$$eval('.t-streamers .tbody a.name', (names) =>
          names.map((it) => it.title),
        );
        assert.deepEqual(hosts, [host]);
      }
      if (selector === '.answer .tile') {
        const loads = await loadRows(page);
        assert.ok(loads.every(([name]) => name === host), JSON.stringify(loads));
      }
    }
    await context.close();
    await call('DELETE', '/api_tokens/folder-part');
  },
};
