// The settings of the server.
import assert from 'node:assert/strict';
import { call, key, loggedIn, WAIT, waitText } from '../pages.mjs';

export const CHECKS = {
  async 'settings name their sources, and are changed one by one'(browser) {
    const { page, context, reports } = await loggedIn(browser, { hash: '#/settings' });
    await page.waitForSelector('.settings li', WAIT);
    const row = (name) => `xpath/.//ul[@class="settings"]/li[span/code="${name}"]`;
    const textOfRow = async (name) => (await page.$(row(name))).evaluate((it) => it.textContent);
    assert.match(await textOfRow('layouter_enabled'), /on by the flag --layouter-enabled/);
    assert.match(await textOfRow('api_key'), /not shown/);
    const html = await page.evaluate(() => document.body.outerHTML);
    assert.ok(!html.includes(key), 'the key is nowhere');
    const change = async (name, text) => {
      await (await page.$(`${row(name)}//button`)).click();
      await page.waitForSelector('dialog[open] input[name=value]', WAIT);
      await page.$eval('dialog input[name=value]', (it) => it.select());
      await page.type('dialog input[name=value]', text);
      await page.keyboard.press('Enter');
    };
    await change('episodes_buffer_limit', 'many');
    await waitText(page, 'dialog .failure', 'must be a whole number');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    await change('streamer_dead_timeout', '1');
    await waitText(page, 'dialog .failure', '/streamer_dead_timeout');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'), WAIT);
    await change('episodes_buffer_limit', '251');
    await waitText(page, '.settings li', '251 in the file');
    assert.equal((await call('GET', '/config')).episodes_buffer_limit, 251);
    await (await page.$(`${row('episodes_buffer_limit')}//button`)).click();
    await page.waitForSelector('dialog[open] footer button:nth-of-type(2)', WAIT);
    await page.click('dialog footer button:nth-of-type(2)');
    await waitText(page, '.settings li', '250 by default');
    // Refused requests are reported by the browser itself.
    assert.deepEqual(
      reports.filter((report) => !report.includes('status of 400')),
      [],
    );
    await context.close();

    const permissions = [{ scopes: ['*'], list: true, read: true }];
    const { key: reader } = await call('PUT', '/api_tokens/reads-settings', { permissions });
    const other = await loggedIn(browser, { hash: '#/settings', credential: reader });
    await waitText(other.page, '.bar-top', 'Only an administrator may change this');
    const states = await other.page.$$eval('.settings button', (all) =>
      all.map((it) => it.disabled),
    );
    assert.ok(states.length > 10 && states.every(Boolean), `${states}`);
    assert.deepEqual(other.reports, []);
    await other.context.close();
  },
};
