// A list of entities of one kind: searched, sorted and paged by the server, edited in a dialog.
import { useCallback, useMemo, useState } from 'preact/hooks';
import * as f from '../format';
import { useRefresh } from '../fresh_rows';
import type { EventRecord } from '../model';
import { usePages } from '../pages';
import { Failure, Typed } from '../parts';
import { go, href, type ScreenProps } from '../router';
import { Table } from '../table';
import { t } from '../text';
import { NoMatch } from './empty';
import { EditEntity, NewEntity } from './entity_dialogs';
import { isAbout, nameOf, type Entity, type EntityKind } from './entity_kind';

export function Entities({ route, me, kind }: ScreenProps & { kind: EntityKind }) {
  const { q = '', sort = '' } = route.query;
  const query = useMemo(() => ({ q, sort, select: kind.select }), [q, sort]);
  const pages = usePages<string, Entity>(kind.path, query, kind.collection);
  useRefresh(pages, useCallback((event: EventRecord) => isAbout(kind, event), [kind]));
  const [isNew, setNew] = useState(false);
  const [name] = route.rest;
  const set = (change: Record<string, string>) =>
    go(href(kind.screen, [], { ...route.query, ...change }), { replace: true });
  const close = () => {
    setNew(false);
    // Back leads to what was before the dialog.
    if (name !== undefined) go(href(kind.screen, [], route.query), { replace: true });
  };
  const saved = () => {
    close();
    pages.again();
  };
  const mayWrite = kind.mayWrite(me);
  return (
    <>
      <div class="bar-top">
        <h1>
          {t(`nav.${kind.screen}`)} <small>{f.count(pages.total)}</small>
        </h1>
        <Typed label={t('entity.search')} value={q} onType={(text) => set({ q: text })} />
        <span class="grow" />
        {!mayWrite && <span class="muted">{kind.whyNot}</span>}
        <button class="primary" disabled={!mayWrite} onClick={() => setNew(true)}>
          {t(`new.${kind.screen}`)} …
        </button>
      </div>
      <Failure error={pages.error} again={pages.again} />
      <div class="fill">
        <Table
          kind={kind.table}
          label={t(`nav.${kind.screen}`)}
          columns={kind.columns}
          source={pages}
          keyOf={(row) => nameOf(kind, row)}
          onOpen={(row) => go(href(kind.screen, [nameOf(kind, row)], route.query))}
          sort={sort}
          onSort={(next) => set({ sort: next })}
          isBusy={pages.isLoading && pages.length === 0}
          empty={
            q ? (
              <NoMatch screen={kind.screen}>{t('entity.no_match')}</NoMatch>
            ) : (
              t(`none.${kind.screen}`)
            )
          }
        />
      </div>
      {isNew && <NewEntity kind={kind} onClose={close} onSaved={saved} />}
      {name !== undefined && (
        <EditEntity key={name} kind={kind} name={name} me={me} onClose={close} onSaved={saved} />
      )}
    </>
  );
}
