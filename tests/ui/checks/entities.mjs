// Tokens, agents and the other lists of entities.
import assert from 'node:assert/strict';
import {
  administrator,
  API,
  barriers,
  call,
  clickOn,
  count,
  go,
  loggedIn,
  noDialog,
  textOf,
  typePatch,
  WAIT,
  waitText,
} from '../pages.mjs';

export const CHECKS = {
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
    await page.waitForSelector('dialog[open] textarea', WAIT);
    assert.match(await page.$eval('dialog textarea', (it) => it.value), /"permissions"/);
    await typePatch(page, '{"permissions": [{"scopes": ["streams/*"], "list": true}]}');
    await page.click('dialog footer button.primary');
    await waitText(page, '.t-tokens .tbody .tr', 'list: streams/*');
    assert.equal((await call('GET', path)).key, made, 'an edit keeps the key');
    assert.equal(await isShown(), false);

    // A deletion is typed, and is about the version that is shown.
    const askToDelete = async () => {
      await go(page, `#${path.replace('api_tokens', 'tokens')}`);
      await page.waitForSelector('dialog[open] textarea', WAIT);
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

  async 'a key is kept, replaced or removed, and never shown'(browser) {
    const [token, agent] = ['/api_tokens/rekeyed', '/agents/rekeyed'];
    const permissions = [{ scopes: ['*'], list: true }];
    await call('PUT', token, { key: 'old-s3cret', permissions });
    await call('PUT', agent, { key: 'old-s3cret' });
    const { page, context, reports } = await loggedIn(browser, { hash: '#/tokens/rekeyed' });
    const edit = async (hash, action) => {
      await go(page, hash);
      await page.waitForSelector('dialog[open] .secret', WAIT);
      await clickOn(page, action, 'dialog .secret button');
    };
    const save = async () => {
      await page.click('dialog footer button.primary');
      await noDialog(page);
    };
    const isShown = () => page.evaluate(() => /s3cret/.test(document.body.outerHTML));
    const actions = () =>
      page.$$eval('dialog .secret button', (all) => all.map((it) => it.textContent));
    await edit('#/tokens/rekeyed', 'Unchanged');
    assert.deepEqual(await actions(), ['Unchanged', 'New value'], 'a token has a key');
    await save();
    assert.equal((await call('GET', token)).key, 'old-s3cret');
    await edit('#/tokens/rekeyed', 'New value');
    assert.deepEqual(await barriers(page), []);
    await page.click('dialog footer button.primary');
    await waitText(page, 'dialog .failure', 'The new value is empty');
    assert.equal(await isShown(), false);
    await page.type('dialog input[name=secret]', 'new-s3cret');
    await page.keyboard.press('Enter');
    await noDialog(page);
    assert.equal((await call('GET', token)).key, 'new-s3cret');
    await edit('#/agents/rekeyed', 'Remove');
    assert.deepEqual(await actions(), ['Unchanged', 'New value', 'Remove']);
    await save();
    assert.equal((await call('GET', agent)).key ?? null, null);
    assert.equal(await isShown(), false);
    assert.deepEqual(reports, []);
    await context.close();
    await call('DELETE', token);
    await call('DELETE', agent);
  },

  async 'commands for agents are confirmed, and refused in words'(browser) {
    await call('PUT', '/agents/camera-7', { key: 'secret-of-camera-7' });
    const { page, context } = await loggedIn(browser, { hash: '#/agents' });
    await waitText(page, '.t-agents .tbody .name', 'camera-7');
    await page.click('.t-agents .tbody a.name[href*="camera-7"]');
    await page.waitForSelector('dialog[open] fieldset:not(.secret) button', WAIT);
    const sent = [];
    page.on('request', (request) => {
      if (request.method() === 'POST') sent.push(new URL(request.url()).pathname);
    });
    await page.click('dialog fieldset:not(.secret) button');
    await waitText(page, 'dialog fieldset:not(.secret) button', 'Really Reboot?');
    assert.deepEqual(sent, [], 'not before it is confirmed');
    await page.click('dialog fieldset:not(.secret) button');
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

  async 'an authorization backend is tested with an assumed viewer'(browser) {
    const rules = { allow_ips: ['10.0.0.0/8'], deny_uas: ['<b>bot'] };
    await call('PUT', '/auth_backends/tested', rules);
    const { page, context, reports } = await loggedIn(browser, { hash: '#/auth/tested' });
    await page.waitForSelector('dialog[open] button.test:not(:disabled)', WAIT);
    const result = 'dialog fieldset [role=status]';
    const type = async (field, text) => {
      await page.$eval(`dialog input[name=test-${field}]`, (input) => input.select());
      await page.type(`dialog input[name=test-${field}]`, text);
      assert.equal(await textOf(page, result), '', 'it was about another viewer');
    };
    const test = async (word) => {
      await page.click('dialog button.test');
      await waitText(page, result, word);
    };
    await type('ip', '10.1.2.3');
    await test('allowed decided by allow_ips');
    await type('ip', '192.0.2.1');
    await test('denied decided by allow_default');
    await type('user_agent', 'a <b>bot');
    await test('denied decided by deny_uas');
    await type('ip', '10.0.0.256');
    await page.click('dialog button.test');
    await waitText(page, 'dialog .failure', '/ip');
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !report.includes('status of 400')),
      [],
    );
    await context.close();
    const permissions = [{ scopes: ['*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/tests-not', { permissions });
    const other = await loggedIn(browser, { hash: '#/auth/tested', credential: reader });
    await waitText(other.page, 'dialog fieldset', 'This credential may not send commands');
    await other.page.waitForSelector('dialog button.test:disabled', WAIT);
    await other.context.close();
    await call('DELETE', '/auth_backends/tested');
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
    await waitText(page, '.t-balancers .tbody .tr', 'viewers');
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
};
