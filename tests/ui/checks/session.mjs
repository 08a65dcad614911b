// Logging in and out, and links that lead through the login.
import assert from 'node:assert/strict';
import { key, logIn, names, open, WAIT, waitText } from '../pages.mjs';

export const CHECKS = {
  async 'login: refused, then accepted, then logged out'(browser) {
    const { page, context } = await open(browser);
    await logIn(page, 'wrong');
    await waitText(page, '[role=alert]', 'Invalid credentials');
    await page.$eval('input[name=key]', (input) => void (input.value = ''));
    await logIn(page);
    await page.waitForSelector('.rail', WAIT);
    const visible = await page.evaluate(() => document.cookie);
    assert.equal(visible, '', 'the cookie is hidden from scripts');
    const kept = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }));
    assert.ok(!kept.includes(key), 'the key is stored nowhere');
    await page.reload();
    await page.waitForSelector('.rail', WAIT);
    await page.click('.who');
    await page.waitForSelector('dialog[open]', WAIT);
    await page.evaluate(() => {
      const buttons = [...document.querySelectorAll('dialog button')];
      buttons.find((button) => button.textContent === 'Log out').click();
    });
    await page.waitForSelector('input[name=key]', WAIT);
    await page.reload();
    await page.waitForSelector('input[name=key]', WAIT);
    await context.close();
  },

  async 'a link leads through the login to its screen'(browser) {
    const hash = '#/streams?q=berlin&enabled=yes';
    const { page, context } = await open(browser, { hash });
    await logIn(page);
    await page.waitForSelector('.t-streams .tbody .name', WAIT);
    assert.equal(await page.evaluate(() => location.hash), hash);
    assert.ok((await names(page)).every((name) => name.includes('berlin')));
    await context.close();
  },
};
