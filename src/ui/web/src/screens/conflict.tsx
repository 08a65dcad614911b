// A refused save of a version that is not stored any more: both versions, member by member.
import type { Difference } from '../comparison';
import * as f from '../format';
import { Mark } from '../parts';
import { t } from '../text';

const SHOWN_MEMBERS = 50;

function Value({ of }: { of: string | null }) {
  return of === null ? <span class="muted">–</span> : <code translate={false}>{of}</code>;
}

export function Conflict({ of }: { of: Difference[] }) {
  const rest = of.length - SHOWN_MEMBERS;
  return (
    <div class="conflict" role="alert">
      <p class="warning">
        <Mark of="degradated" /> {of.length > 0 ? t('conflict.lead') : t('conflict.none')}
      </p>
      {of.length > 0 && (
        <div class="scroll" tabindex={0} role="region" aria-label={t('conflict.members')}>
          <table class="plain">
            <thead>
              <tr>
                <th>{t('conflict.member')}</th>
                <th>{t('conflict.theirs')}</th>
                <th>{t('conflict.mine')}</th>
                <th>{t('conflict.by')}</th>
              </tr>
            </thead>
            <tbody>
              {of.slice(0, SHOWN_MEMBERS).map(({ member, theirs, mine, by }) => (
                <tr key={member}>
                  <td>
                    <code translate={false}>{member}</code>
                  </td>
                  <td>
                    <Value of={theirs} />
                  </td>
                  <td>
                    <Value of={mine} />
                  </td>
                  <td>{t(`changed_by.${by}`)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {rest > 0 && <p class="muted">{t('bulk.more', { n: f.count(rest) })}</p>}
    </div>
  );
}
