// The page itself: its size, its address, its tabs, and a restart of the server.
import assert from 'node:assert/strict';
import {
  base,
  call,
  checkFirstScreen,
  go,
  loggedIn,
  logIn,
  proxyBelow,
  restartServer,
  textOf,
  WAIT,
  waitText,
  within,
} from '../pages.mjs';

/** Twice as many as the connections that a browser keeps to one host. */
const TABS = 12;

export const CHECKS = {
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
    await checkFirstScreen(browser);
  },

  async 'one tab of a browser waits for all'(browser) {
    const { page, context } = await loggedIn(browser);
    await waitText(page, '.live', 'Live');
    const waiting = [];
    const tabs = [page];
    for (let count = 1; count < TABS; count += 1) {
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
