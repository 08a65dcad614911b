// A new server: its empty lists, its end and return, and streamers that are lost and return.
import assert from 'node:assert/strict';
import {
  API,
  barriers,
  call,
  endServer,
  go,
  loggedIn,
  logIn,
  proxyBelow,
  readStreams,
  startServer,
  textOf,
  tooWide,
  WAIT,
  waitText,
} from '../pages.mjs';

const CLOCK = /data of \d\d:\d\d:\d\d/;

/** The page shows for how long its data is not refreshed, and keeps it. */
async function isAway(page) {
  await waitText(page, '.live', 'Not connected, data of');
  assert.match(await textOf(page, '.live [role=status]'), CLOCK);
  await waitText(page, '.live', 'trying again in');
}

export const CHECKS = {
  async 'empty lists show the commands that fill them'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/streamers' });
    await page.waitForSelector('.empty pre', WAIT);
    const commands = (await page.$eval('.empty pre', (it) => it.textContent)).split('\n');
    assert.equal(commands.length, 2);
    const [save, read] = commands.map((it) =>
      /^curl -H "Authorization: Bearer \$KEY" (\S+)(?: -X PUT -d '(.*)')?$/.exec(it),
    );
    assert.ok(save && read, commands.join('\n'));
    assert.deepEqual(await barriers(page), []);
    // What they do, the list shows by itself.
    const path = save[1].replace(API, '');
    await call('PUT', path, JSON.parse(save[2]));
    for (const _ of ['first', 'second']) await call('GET', read[1].replace(API, ''));
    await waitText(page, '.t-streamers .tbody .name', 's1');
    const noMatch = async (hash, text) => {
      await go(page, hash);
      await waitText(page, '.empty', text);
      await page.click('.empty a.button');
    };
    await noMatch('#/streamers?q=nobody&sort=cpu', 'No streamer matches');
    await waitText(page, '.t-streamers .tbody .name', 's1');
    await noMatch('#/streamers?view=grid&state=held', 'No streamer matches');
    await waitText(page, '.cell', 's1');
    assert.equal(await page.evaluate(() => location.hash), '#/streamers?view=grid');
    await noMatch('#/streams?q=nothing', 'No stream matches');
    await waitText(page, '.empty pre', 'weir import channels.m3u8');
    await noMatch('#/events?entity=nothing', 'No event matches');
    await page.waitForSelector('.log .event', WAIT);
    await noMatch('#/tokens?q=nothing', 'Nothing matches');
    await waitText(page, '.empty', 'No token yet');
    assert.deepEqual(reports, []);
    await context.close();
    await call('DELETE', path);
  },

  async 'a connection that is lost shows the age of the data, and returns'(browser) {
    const path = '/streamers/aged.example.com';
    const save = (step) =>
      call('PUT', path, { role: 'streamer', cluster_key: 'k', labels: { step } });
    await save('before');
    const proxy = await proxyBelow('/weir');
    const { page, context } = await loggedIn(browser, { hash: `#${path}`, at: proxy.address });
    await waitText(page, '.bar-top .labels', 'before');
    await waitText(page, '.live', 'Live');
    proxy.cut();
    await save('meanwhile');
    await isAway(page);
    assert.equal(await textOf(page, '.bar-top .labels .label'), 'stepbefore', 'it stays');
    assert.deepEqual(await barriers(page), []);
    assert.equal(await tooWide(page), 0);
    proxy.mend();
    await waitText(page, '.bar-top .labels', 'meanwhile');
    await page.waitForFunction(
      () => document.querySelector('.live').textContent === 'Live' && !document.querySelector('main .failure'),
      WAIT,
    );
    await context.close();
    proxy.close();
    await call('DELETE', path);
  },

  async 'a server that ends shows the age of the data, and returns'(browser) {
    await call('PUT', '/streams/stays', { title: 'shown' });
    const hash = '#/streams?q=stays';
    const { page, context } = await loggedIn(browser, { hash });
    await waitText(page, '.t-streams .tbody .td', 'shown');
    await waitText(page, '.live', 'Live');
    await endServer();
    await isAway(page);
    await waitText(page, '.t-streams .tbody .td', 'shown');
    await go(page, '#/overview');
    await waitText(page, 'main .failure', 'That did not work');
    await go(page, hash);
    await startServer();
    // It has no session any more: the login, then the screen.
    await page.waitForSelector('input[name=key]', WAIT);
    await logIn(page);
    await waitText(page, '.t-streams .tbody .td', 'shown');
    await waitText(page, '.live', 'Live');
    assert.equal(await page.evaluate(() => location.hash), hash);
    await context.close();
    await call('DELETE', '/streams/stays');
  },

  async 'a lost streamer needs attention until it returns'(browser) {
    const host = 'lost.example.com';
    const path = `/streamers/${host}`;
    await call('PUT', path, { role: 'streamer', cluster_key: 'k' });
    await call('PUT', '/streams/on-lost', { title: 'x' });
    // It polls as a streamer does, until it is lost.
    let beat = 0;
    const begin = () => {
      const poll = () => void readStreams(path).catch(() => {});
      beat = setInterval(poll, 200);
    };
    const { page, context, reports } = await loggedIn(browser, { hash: `#${path}` });
    const isFine = () =>
      page.waitForFunction(
        () =>
          document.querySelector('.needs') !== null &&
          ![...document.querySelectorAll('.needs li')].some((it) => /is down/.test(it.textContent)),
        WAIT,
      );
    try {
      begin();
      await waitText(page, 'main h1', 'Up');
      await go(page, '#/overview');
      await isFine();
      clearInterval(beat);
      await waitText(page, '.needs li a', '1 streamer is down');
      // The line leads to the list of those streamers.
      await page.click('.needs li a[href*="state=offline"]');
      await page.waitForSelector('.t-streamers .tbody .name', WAIT);
      assert.equal(await page.evaluate(() => location.hash), '#/streamers?state=offline');
      const names = await page.$$eval('.t-streamers .tbody a.name', (all) =>
        all.map((it) => it.title),
      );
      assert.deepEqual(names, [host]);
      await go(page, '#/overview');
      await waitText(page, '.needs li', 'is down');
      begin();
      await isFine();
      await go(page, `#${path}`);
      await waitText(page, 'main h1', 'Up');
    } finally {
      clearInterval(beat);
    }
    assert.deepEqual(reports, []);
    await context.close();
    await call('DELETE', '/streams/on-lost');
    await call('DELETE', path);
  },
};
